//! How sizes, durations and booleans are written. Sizes: a number with K, M, G or T (powers of 1024,
//! an optional `iB` or `B` after it), fractions allowed. Durations: ms, s, m, h, d.

use std::time::Duration;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
pub const TIB: u64 = 1 << 40;

/// A size in bytes; a bare number counts `bare_unit_bytes`. `None` if it is not a size or over 2^63.
pub fn parse_size(text: &str, bare_unit_bytes: u64) -> Option<u64> {
    let (number, suffix) = split_number(text)?;
    let unit_bytes = match suffix.to_ascii_lowercase().as_str() {
        "" => bare_unit_bytes,
        "b" => 1,
        "k" | "kb" | "kib" => KIB,
        "m" | "mb" | "mib" => MIB,
        "g" | "gb" | "gib" => GIB,
        "t" | "tb" | "tib" => TIB,
        _ => return None,
    };
    scale(number, unit_bytes).filter(|bytes| *bytes <= i64::MAX as u64)
}

/// A duration; a bare number counts `bare_unit`. At most 100 years.
pub fn parse_duration(text: &str, bare_unit: Duration) -> Option<Duration> {
    let (number, suffix) = split_number(text)?;
    let unit_ms = match suffix {
        "" => bare_unit.as_millis() as u64,
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let hundred_years_ms = 100 * 366 * 86_400_000;
    scale(number, unit_ms)
        .filter(|ms| *ms <= hundred_years_ms)
        .map(Duration::from_millis)
}

pub fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// `text` cut into a non-negative decimal number and what follows it.
fn split_number(text: &str) -> Option<(&str, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let well_formed = number.starts_with(|c: char| c.is_ascii_digit())
        && number.ends_with(|c: char| c.is_ascii_digit())
        && number.matches('.').count() <= 1;
    well_formed.then_some((number, suffix))
}

/// `number * unit`, exact for whole numbers.
fn scale(number: &str, unit: u64) -> Option<u64> {
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit);
    }
    let scaled = number.parse::<f64>().ok()? * unit as f64;
    (scaled < u64::MAX as f64).then_some(scaled.round() as u64)
}

/// A size as [`parse_size`] reads it back: the largest unit that divides it.
pub fn show_size(bytes: u64) -> String {
    for (unit, suffix) in [(TIB, "T"), (GIB, "G"), (MIB, "M"), (KIB, "K")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{suffix}", bytes / unit);
        }
    }
    bytes.to_string()
}

/// A duration as [`parse_duration`] reads it back: the largest unit that divides it.
pub fn show_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms == 0 {
        return "0s".to_owned();
    }
    for (unit_ms, suffix) in [(3_600_000, "h"), (60_000, "m"), (1_000, "s")] {
        if ms.is_multiple_of(unit_ms) {
            return format!("{}{suffix}", ms / unit_ms);
        }
    }
    format!("{ms}ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_suffixes_and_fractions() {
        assert_eq!(parse_size("200G", 1), Some(200 * GIB));
        assert_eq!(parse_size("1.5m", 1), Some(3 * MIB / 2));
        assert_eq!(parse_size("16KiB", 1), Some(16 * KIB));
        assert_eq!(parse_size("7", GIB), Some(7 * GIB));
        assert_eq!(parse_size("7B", GIB), Some(7));
        for bad in [
            "",
            "G",
            "-1",
            "1X",
            "1..2",
            "1.",
            "99999999999T",
            "0x10",
            "1 G",
        ] {
            assert_eq!(parse_size(bad, 1), None, "{bad}");
        }
    }

    #[test]
    fn durations_take_units() {
        let second = Duration::from_secs(1);
        assert_eq!(
            parse_duration("250ms", second),
            Some(Duration::from_millis(250))
        );
        assert_eq!(
            parse_duration("1.5", second),
            Some(Duration::from_millis(1500))
        );
        assert_eq!(
            parse_duration("2h", second),
            Some(Duration::from_secs(7200))
        );
        assert_eq!(parse_duration("0", second), Some(Duration::ZERO));
        for bad in ["", "s", "-1s", "1w", "9999999h"] {
            assert_eq!(parse_duration(bad, second), None, "{bad}");
        }
    }

    #[test]
    fn booleans_are_spelled_in_every_usual_way() {
        for yes in ["1", "true", "YES", "on"] {
            assert_eq!(parse_bool(yes), Some(true));
        }
        for no in ["0", "False", "no", "off"] {
            assert_eq!(parse_bool(no), Some(false));
        }
        assert_eq!(parse_bool("maybe"), None);
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for bytes in [0, 1, 1023, 1024, 3 * MIB, 5 * GIB / 2, TIB] {
            assert_eq!(parse_size(&show_size(bytes), 1), Some(bytes));
        }
        for ms in [0, 1, 1_500, 60_000, 90_000, 86_400_000] {
            let duration = Duration::from_millis(ms);
            assert_eq!(
                parse_duration(&show_duration(duration), Duration::from_secs(1)),
                Some(duration)
            );
        }
    }
}
