//! What is shown. Pure.

use super::Order;
use crate::daemon::watching::{Counts, Load};
use crate::types::bytes_in_words;
use crate::types::printable::one_line;
use std::cmp::Reverse;
use std::path::{Path, PathBuf};

/// Of a terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    pub columns: usize,
    pub rows: usize,
}

impl Size {
    /// Where the terminal does not say.
    pub const USUAL: Self = Self {
        columns: 80,
        rows: 24,
    };
    pub const UNLIMITED: Self = Self {
        columns: usize::MAX,
        rows: usize::MAX,
    };
}

/// Processes shown at most, where room is short.
const PROCESSES_SHARE: usize = 3;
/// Rows that are neither a file nor a process.
const FIXED_ROWS: usize = 7;
/// What stands before the name in a row.
const NUMBERS_COLUMNS: usize = 53;

pub fn screen(load: &Load, mountpoint: &Path, order: Order, size: Size) -> Vec<String> {
    let room = size.rows.saturating_sub(FIXED_ROWS);
    let processes = rows_of(
        load.processes.iter().map(|process| {
            let name = match process.name.as_str() {
                "" => "(ended)",
                name => name,
            };
            (format!("{} {name}", process.pid), process.counts)
        }),
        load,
        order,
        size,
    );
    let files = load.files.iter().map(|file| {
        let path = PathBuf::from(file.path.clone());
        let shown = match path.as_os_str().is_empty() {
            true => ".".to_owned(),
            false => path.display().to_string(),
        };
        (shown, file.counts)
    });
    let files = rows_of(files, load, order, size);
    let for_processes = processes.len().min(room / PROCESSES_SHARE);
    let mut rows = head(load, mountpoint, order);
    rows.extend([String::new(), heading("FILE")]);
    rows.extend(files.into_iter().take(room - for_processes));
    rows.push(heading("PROCESS"));
    rows.extend(processes.into_iter().take(for_processes));
    if load.uncounted_operations > 0 {
        rows.push(format!(
            "{} operations were of more files or processes than are counted apart",
            load.uncounted_operations
        ));
    }
    rows.iter().map(|row| cut(row, size.columns)).collect()
}

/// What matters stands in the first 80 columns.
fn head(load: &Load, mountpoint: &Path, order: Order) -> Vec<String> {
    let total = &load.total;
    let read_bytes = total.hit_bytes + total.miss_bytes;
    vec![
        format!(
            "by {} (keys: s another order, q end)  {}",
            order.in_a_word(),
            mountpoint.display()
        ),
        format!(
            "{} operations/s, {} read/s ({} hits), {} written/s, {} errors",
            rate(total.operations, load),
            amount(read_bytes, load),
            percent(total.hit_bytes, read_bytes),
            amount(total.written_bytes, load),
            total.errors
        ),
        format!(
            "{} mean, {} longest; {} passthrough opens, whose reads are not seen here",
            duration(mean_us(total)),
            duration(total.longest_us),
            total.passthrough_opens
        ),
    ]
}

fn heading(what: &str) -> String {
    columns(
        ["OPS/S", "HITS/S", "MISS/S", "READ/S", "WRITTEN/S", "MEAN"],
        what,
    )
}

fn columns([operations, hits, misses, read, written, mean]: [&str; 6], what: &str) -> String {
    format!("{operations:>6} {hits:>6} {misses:>6} {read:>10} {written:>10} {mean:>8}  {what}")
}

fn rows_of(
    rows: impl Iterator<Item = (String, Counts)>,
    load: &Load,
    order: Order,
    size: Size,
) -> Vec<String> {
    let mut rows: Vec<(String, Counts)> = rows.collect();
    rows.sort_by_key(|(what, counts)| {
        let first = match order {
            Order::Bytes => counts.moved_bytes(),
            Order::Operations => counts.operations,
            Order::Misses => counts.misses,
            Order::Time => counts.total_us,
        };
        (Reverse((first, counts.operations)), what.clone())
    });
    let shown = rows
        .iter()
        .map(|(what, counts)| row(&end_of(what, size), counts, load));
    shown.collect()
}

fn row(what: &str, counts: &Counts, load: &Load) -> String {
    columns(
        [
            &rate(counts.operations, load),
            &rate(counts.hits, load),
            &rate(counts.misses, load),
            &amount(counts.hit_bytes + counts.miss_bytes, load),
            &amount(counts.written_bytes, load),
            &duration(mean_us(counts)),
        ],
        &one_line(what),
    )
}

fn mean_us(counts: &Counts) -> u64 {
    counts.total_us.checked_div(counts.operations).unwrap_or(0)
}

fn rate(count: u64, load: &Load) -> String {
    match load.seconds > 0.0 {
        true => format!("{:.0}", count as f64 / load.seconds),
        false => "0".to_owned(),
    }
}

fn amount(bytes: u64, load: &Load) -> String {
    match (bytes, load.seconds > 0.0) {
        (0, _) | (_, false) => "0".to_owned(),
        (bytes, true) => bytes_in_words((bytes as f64 / load.seconds) as u64),
    }
}

fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "no".to_owned(),
        whole => format!("{} %", part * 100 / whole),
    }
}

fn duration(took_us: u64) -> String {
    match took_us {
        0..10_000 => format!("{took_us} us"),
        10_000..10_000_000 => format!("{} ms", took_us / 1000),
        _ => format!("{} s", took_us / 1_000_000),
    }
}

/// The end of a long path tells more than its beginning.
fn end_of(what: &str, size: Size) -> String {
    let room = size.columns.saturating_sub(NUMBERS_COLUMNS + 1);
    let length = what.chars().count();
    match length <= room {
        true => what.to_owned(),
        false => format!("…{}", what.chars().skip(length - room).collect::<String>()),
    }
}

fn cut(row: &str, columns: usize) -> String {
    row.chars().take(columns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::control::WirePath;
    use crate::daemon::watching::{FileLoad, ProcessLoad};

    fn load() -> Load {
        let counts = |hits: u64, misses: u64| Counts {
            operations: hits + misses,
            hits,
            misses,
            hit_bytes: hits << 20,
            miss_bytes: misses << 20,
            total_us: misses * 1000,
            longest_us: 2000,
            ..Counts::default()
        };
        let file = |path: &str, counts| FileLoad {
            path: WirePath::Text(path.to_owned()),
            counts,
        };
        Load {
            seconds: 2.0,
            total: counts(90, 10),
            files: vec![file("much", counts(90, 0)), file("late\n", counts(0, 10))],
            processes: vec![ProcessLoad {
                pid: 7,
                name: "reader".to_owned(),
                counts: counts(90, 10),
            }],
            uncounted_operations: 0,
        }
    }

    fn place(rows: &[String], what: &str) -> usize {
        rows.iter()
            .position(|row| row.contains(what))
            .unwrap_or_else(|| panic!("{what} in {rows:?}"))
    }

    #[test]
    fn who_leads_comes_first_in_the_order_asked_for() {
        let shown = |order| screen(&load(), Path::new("/mnt/c"), order, Size::UNLIMITED);
        let by_bytes = shown(Order::Bytes);
        assert!(place(&by_bytes, "much") < place(&by_bytes, "late\\n"));
        let by_misses = shown(Order::Misses);
        assert!(place(&by_misses, "late\\n") < place(&by_misses, "much"));
        assert!(by_bytes[1].contains("50 operations/s"), "{by_bytes:?}");
        assert!(by_bytes[1].contains("90 % hits"), "{by_bytes:?}");
        assert!(by_bytes[2].contains("passthrough"));
        assert!(place(&by_bytes, "7 reader") > place(&by_bytes, "much"));
    }

    #[test]
    fn it_fits_the_terminal() {
        let mut many = load();
        many.files = (0..200)
            .map(|index| FileLoad {
                path: WirePath::Text("x".repeat(index) + "end"),
                counts: Counts::default(),
            })
            .collect();
        let rows = screen(&many, Path::new("/mnt/c"), Order::Bytes, Size::USUAL);
        assert!(rows.len() <= Size::USUAL.rows, "{}", rows.len());
        assert!(rows.iter().all(|row| row.chars().count() <= 80));
        assert!(place(&rows, "7 reader") > 0);
        let files = rows.iter().filter(|row| row.contains("x"));
        assert!(files.clone().count() > 3 && files.clone().all(|row| row.ends_with("end")));
        let tiny = Size {
            columns: 1,
            rows: 1,
        };
        screen(&many, Path::new("/mnt/c"), Order::Bytes, tiny);
    }
}
