//! Eight readers stream at once, cold and warm, in at most 200 MiB.

use crate::figures::{Peak, mebibytes, resident};
use crate::support::*;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const RESIDENT_MAX_BYTES: u64 = 200 << 20;
const READERS: u64 = 8;
const PASS_LIMIT: Duration = Duration::from_secs(600);

#[test]
fn eight_streaming_readers_fit_in_200_mib() {
    let _alone = crate::alone();
    let scratch = Scratch::new("streaming");
    let backend = FaultBackend::start(&scratch, BackendOptions::default());
    let file_bytes: u64 = sample_or_full(24 << 20, 512 << 20);
    let content = move |number| Content::new(40 + number, 1, file_bytes);
    for number in 0..READERS {
        content(number)
            .create(&backend.plain.join(format!("stream{number}")))
            .expect("a file can be made");
    }
    let options = MountOptions::new(&scratch)
        .with("cache_size=20G")
        .with("passthrough=off");
    let mount = Mount::start(&scratch, &backend.mountpoint, options);
    let pid = mount.pid();
    for pass in ["cold", "warm, passthrough=off", "warm again"] {
        backend.reset_counters();
        let peak = Peak::of(move || resident(pid).total_bytes);
        let paths: Vec<PathBuf> = (0..READERS)
            .map(|number| mount.join(format!("stream{number}")))
            .collect();
        let began = Instant::now();
        with_time_limit(&scratch, PASS_LIMIT, move || {
            std::thread::scope(|scope| {
                for (number, path) in paths.iter().enumerate() {
                    scope.spawn(move || stream(path, content(number as u64)));
                }
            });
        });
        let elapsed = began.elapsed();
        let peak = peak.end();
        println!(
            "{pass}: {:.0} MB/s, resident at most {:.1} MiB (anonymous at the end {:.1})",
            (READERS * file_bytes) as f64 / 1e6 / elapsed.as_secs_f64(),
            mebibytes(peak),
            mebibytes(resident(pid).anonymous_bytes),
        );
        assert!(peak <= RESIDENT_MAX_BYTES, "{pass}: {peak} bytes");
        if pass != "cold" {
            assert_eq!(backend.counters().bytes_read, 0, "{pass}");
        }
        reading::drop_caches().expect("root may drop caches");
    }
}

fn stream(path: &PathBuf, content: Content) {
    let mut file = File::open(path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    loop {
        match file
            .read(&mut buffer)
            .unwrap_or_else(|e| panic!("{path:?} at {offset}: {e}"))
        {
            0 => break,
            count => {
                assert_eq!(content.check(offset, &buffer[..count]), Ok(()), "{path:?}");
                offset += count as u64;
            }
        }
    }
    assert_eq!(offset, content.size_bytes, "{path:?}");
}
