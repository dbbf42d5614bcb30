//! Names in what people read. A name may hold anything: it must not speak to a terminal, turn the order of what stands
//! beside it, or begin a line that says something else.

/// Text of several lines.
pub fn harmless(text: &str) -> String {
    escape_if(text, |character| {
        speaks(character) && !matches!(character, '\n' | '\t')
    })
}

/// Text that is one line, whatever the names in it.
pub fn one_line(text: &str) -> String {
    escape_if(text, speaks)
}

/// Control characters, separators of lines and paragraphs, and the bidirectional controls of Unicode (UAX #9).
fn speaks(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

fn escape_if(text: &str, speaks: impl Fn(char) -> bool) -> String {
    let show = |character: char| match speaks(character) {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    text.chars().map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_speaks_to_a_terminal_is_escaped_and_all_else_stays() {
        let name = "a\u{1b}[31m\u{7}\r\u{8}\u{202e}\u{2066}\u{200f}\u{2028}é\n\tb";
        assert_eq!(
            harmless(name),
            "a\\u{1b}[31m\\u{7}\\r\\u{8}\\u{202e}\\u{2066}\\u{200f}\\u{2028}é\n\tb"
        );
        assert!(one_line(name).ends_with("é\\n\\tb"));
    }
}
