//! Which processors a thread may run on.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::io;

/// Confines a thread (by its kernel id) to `processors`. Those beyond what the kernel can count are
/// left out; EINVAL when none is left.
pub fn confine_thread(thread: Pid, processors: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for processor in processors {
        let _ = set.set(*processor);
    }
    Ok(sched_setaffinity(thread, &set)?)
}

/// Reads the kernel's list format: `0-3,8,10-11`. Unreadable parts are left out.
pub fn parse_processor_list(list: &str) -> Vec<usize> {
    let mut processors = Vec::new();
    for part in list.trim().split(',') {
        let mut ends = part.splitn(2, '-').map(|end| end.trim().parse::<usize>());
        match (ends.next(), ends.next()) {
            (Some(Ok(first)), None) => processors.push(first),
            (Some(Ok(first)), Some(Ok(last))) => processors.extend(first..=last),
            _ => {}
        }
    }
    processors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_processor_list("0-2,5\n"), vec![0, 1, 2, 5]);
        assert_eq!(parse_processor_list("7"), vec![7]);
        assert_eq!(parse_processor_list("\n"), Vec::<usize>::new());
    }
}
