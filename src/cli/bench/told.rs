//! The table and the verdict.

use super::measure::Measured;
use crate::daemon::status::Status;
use serde::Serialize;

/// A hit that is not at least so much faster is not worth a disk.
const WORTH: f64 = 1.5;
/// A miss or a write that takes longer than so much of the backend's own time is worth a word.
const COSTLY: f64 = 1.5;

/// What was measured; absent where --read-only leaves it out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub mountpoint: String,
    pub backend: String,
    pub passthrough: String,
    pub write_mode: String,
    /// The disk of the cache by itself, and the same from memory.
    pub disk_read: Measured,
    pub disk_hot: Measured,
    pub backend_read: Measured,
    /// Through the mount: the first time, from the cache disk, and from memory.
    pub miss: Measured,
    pub hit: Measured,
    pub hit_hot: Measured,
    /// 4 KiB, one after the other.
    pub backend_small: Measured,
    pub hit_small: Measured,
    /// Open, read, close of 16 KiB.
    pub backend_open: Option<Measured>,
    pub mount_open: Option<Measured>,
    pub backend_write: Option<Measured>,
    pub mount_write: Option<Measured>,
    /// 4 KiB and fdatasync.
    pub backend_sync: Option<Measured>,
    pub mount_sync: Option<Measured>,
    pub verdict: Vec<String>,
}

impl Report {
    pub fn of(status: &Status) -> Self {
        let option = |name: &str| {
            let option = status.options.iter().find(|option| option.name == name);
            option.map_or_else(String::new, |option| option.value.clone())
        };
        Self {
            mountpoint: status.mountpoint.clone(),
            backend: status.backend.filesystem.clone(),
            passthrough: status.fuse.passthrough.clone(),
            write_mode: option("write_mode"),
            ..Self::default()
        }
    }

    /// Under a screen.
    pub fn in_words(&self) -> String {
        let mut lines = vec![format!(
            "{}: backend {}, passthrough {}, write_mode={}",
            self.mountpoint, self.backend, self.passthrough, self.write_mode
        )];
        lines.push(heading("MiB/s", "of backend", "of disk"));
        let backend = self.backend_read.mib_per_second();
        let disk = self.disk_read.mib_per_second();
        for (what, measured) in [
            ("cache disk by itself", &self.disk_read),
            ("cache disk, from memory", &self.disk_hot),
            ("backend by itself", &self.backend_read),
            ("first read through the mount (miss)", &self.miss),
            ("hit, from the cache disk", &self.hit),
            ("hit, from memory", &self.hit_hot),
        ] {
            let rate = measured.mib_per_second();
            lines.push(row(what, rate, &times(rate / backend), &times(rate / disk)));
        }
        lines.push(heading("us", "of backend", ""));
        let calls = [
            (
                "4 KiB at random: backend",
                Some(self.backend_small),
                Some(self.backend_small),
            ),
            (
                "4 KiB at random: hit",
                Some(self.hit_small),
                Some(self.backend_small),
            ),
            (
                "open, read, close: backend",
                self.backend_open,
                self.backend_open,
            ),
            (
                "open, read, close: mount",
                self.mount_open,
                self.backend_open,
            ),
            (
                "4 KiB write and sync: backend",
                self.backend_sync,
                self.backend_sync,
            ),
            (
                "4 KiB write and sync: mount",
                self.mount_sync,
                self.backend_sync,
            ),
        ];
        for (what, measured, base) in calls {
            if let (Some(measured), Some(base)) = (measured, base) {
                let took = measured.us_per_call();
                lines.push(row(what, took, &times(took / base.us_per_call()), ""));
            }
        }
        if let (Some(base), Some(through)) = (self.backend_write, self.mount_write) {
            let (base, through) = (base.mib_per_second(), through.mib_per_second());
            lines.push(format!(
                "writing and a sync: backend {base:.0} MiB/s, mount {through:.0} MiB/s ({})",
                times(through / base)
            ));
        }
        lines.extend(self.conclusions());
        lines.join("\n") + "\n"
    }

    pub fn with_verdict(mut self) -> Self {
        self.verdict = self.conclusions();
        self
    }

    fn conclusions(&self) -> Vec<String> {
        let gain = self.hit.mib_per_second() / self.backend_read.mib_per_second();
        let small_gain = self.backend_small.us_per_call() / self.hit_small.us_per_call();
        let first = match (gain >= WORTH, small_gain >= WORTH) {
            (true, true) => format!(
                "The cache helps: what is in it is read {} as fast as from the backend, in small pieces {}.",
                times(gain),
                times(small_gain)
            ),
            (true, false) => format!(
                "The cache helps with large reads ({}), not with small ones ({}).",
                times(gain),
                times(small_gain)
            ),
            (false, true) => format!(
                "The cache helps with small reads ({}), not with large ones ({}).",
                times(small_gain),
                times(gain)
            ),
            (false, false) => format!(
                "The cache does not help here: hits are {} as fast as the backend, which is as fast as the cache disk, or nearly.",
                times(gain)
            ),
        };
        let mut verdict = vec![first];
        let cost = self.backend_read.mib_per_second() / self.miss.mib_per_second();
        if cost > COSTLY {
            verdict.push(format!(
                "A first read takes {} the time of the backend's own.",
                times(cost)
            ));
        }
        for (what, base, through) in [
            ("An open", self.backend_open, self.mount_open),
            (
                "A small write with its sync",
                self.backend_sync,
                self.mount_sync,
            ),
        ] {
            if let (Some(base), Some(through)) = (base, through) {
                let cost = through.us_per_call() / base.us_per_call();
                if cost > COSTLY {
                    verdict.push(format!(
                        "{what} takes {} the time of the backend's own.",
                        times(cost)
                    ));
                }
            }
        }
        verdict
    }
}

fn heading(unit: &str, of_backend: &str, of_disk: &str) -> String {
    format!("{:<38} {unit:>9} {of_backend:>11} {of_disk:>9}", "")
}

fn row(what: &str, value: f64, of_backend: &str, of_disk: &str) -> String {
    format!("{what:<38} {value:>9.0} {of_backend:>11} {of_disk:>9}")
}

fn times(ratio: f64) -> String {
    match ratio {
        ratio if ratio >= 10.0 => format!("{ratio:.0}x"),
        ratio => format!("{ratio:.2}x"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(mib_per_second: u64) -> Measured {
        Measured {
            bytes: mib_per_second << 20,
            calls: 0,
            seconds: 1.0,
        }
    }

    fn calls(us: f64) -> Measured {
        Measured {
            bytes: 0,
            calls: 1,
            seconds: us / 1e6,
        }
    }

    fn report(hit: u64, hit_small_us: f64) -> Report {
        Report {
            disk_read: rate(2000),
            disk_hot: rate(5000),
            backend_read: rate(100),
            miss: rate(90),
            hit: rate(hit),
            hit_hot: rate(4000),
            backend_small: calls(500.0),
            hit_small: calls(hit_small_us),
            backend_sync: Some(calls(1000.0)),
            mount_sync: Some(calls(3000.0)),
            ..Report::default()
        }
    }

    #[test]
    fn the_verdict_follows_from_the_ratios_and_all_fits_a_screen() {
        for (hit, small_us, wanted) in [
            (1500, 50.0, "The cache helps: what is in it is read 15x"),
            (
                1500,
                500.0,
                "large reads (15x), not with small ones (1.00x)",
            ),
            (110, 50.0, "small reads (10x), not with large ones (1.10x)"),
            (110, 500.0, "does not help here"),
        ] {
            let words = report(hit, small_us).in_words();
            assert!(words.contains(wanted), "{wanted} in\n{words}");
            assert!(words.contains("takes 3.00x the time"), "{words}");
            assert!(words.lines().count() <= 24, "{words}");
        }
    }
}
