//! Ratios to plain system calls on this machine. Run by hand, in release:
//! `cargo test --release --lib io::tests::measure -- --ignored --nocapture --test-threads=1`

use super::*;
use crate::io::FillSource;
use std::os::unix::fs::FileExt;
use std::time::Instant;

const FILE_BYTES: u64 = 256 << 20;
const READS: u64 = 40_000;

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

#[test]
#[ignore = "a measurement, seconds long"]
fn small_hot_reads_against_pread() {
    let scratch = Scratch::new();
    for (name, settings) in engines() {
        let engine = Engine::start(settings).unwrap();
        let disk = scratch.disk(&engine);
        let file = create(&disk, "object", &pattern(FILE_BYTES as usize, 31));
        let plain = std::fs::File::open(scratch.path().join("object")).unwrap();
        let offsets: Vec<u64> =
            std::iter::successors(Some(88_172_645_463_325_252), |s| Some(random(*s)))
                .take(READS as usize)
                .map(|state| (state >> 8) % (FILE_BYTES / 4096) * 4096)
                .collect();
        let mut rates = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..5 {
            let mut bytes = [0; 4096];
            let start = Instant::now();
            for offset in &offsets {
                plain.read_exact_at(&mut bytes, *offset).unwrap();
            }
            rates[0].push(READS as f64 / start.elapsed().as_secs_f64());
            for (index, depth, direct) in [(1, 1, false), (2, 32, false), (3, 32, true)] {
                let (sender, receiver) = crossbeam_channel::unbounded();
                let start = Instant::now();
                let (mut under_way, mut next) = (0, 0);
                while next < offsets.len() || under_way > 0 {
                    while next < offsets.len() && under_way < depth {
                        let sender = sender.clone();
                        let done = move |_, buffer| drop(sender.send(buffer));
                        let buffer = engine.take_buffer(4096);
                        file.submit_read(buffer, offsets[next], 4096, direct, Box::new(done));
                        next += 1;
                        under_way += 1;
                    }
                    receiver.recv().unwrap();
                    under_way -= 1;
                }
                rates[index].push(READS as f64 / start.elapsed().as_secs_f64());
            }
        }
        let [pread, depth_1, depth_32, direct_32] = rates.map(median);
        println!(
            "{name}: pread {pread:.0}/s; depth 1 {:.2}, depth 32 {:.2} of it; direct depth 32 {direct_32:.0}/s",
            depth_1 / pread,
            depth_32 / pread
        );
        disk.remove_file("object").unwrap();
    }
}

#[test]
#[ignore = "a measurement, writes gigabytes"]
fn a_large_fill_against_read_and_write() {
    const FILL_BYTES: u64 = 1 << 30;
    const PIECE_BYTES: u64 = 1 << 20;
    let scratch = Scratch::new();
    let source_path = scratch.path().join("source");
    let chunk = pattern(64 << 20, 32);
    let source = std::fs::File::create(&source_path).unwrap();
    for part in 0..FILL_BYTES / chunk.len() as u64 {
        source
            .write_all_at(&chunk, part * chunk.len() as u64)
            .unwrap();
    }
    source.sync_all().unwrap();
    let source: Arc<OwnedFd> = Arc::new(std::fs::File::open(&source_path).unwrap().into());
    for (name, settings) in engines() {
        let engine = Engine::start(settings).unwrap();
        let disk = scratch.disk(&engine);
        let (mut plain_s, mut fill_s) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let file = create(&disk, "plain", b"");
            let reader = std::fs::File::open(&source_path).unwrap();
            let mut bytes = vec![0; PIECE_BYTES as usize];
            let start = Instant::now();
            for piece in 0..FILL_BYTES / PIECE_BYTES {
                reader
                    .read_exact_at(&mut bytes, piece * PIECE_BYTES)
                    .unwrap();
                file.write_all_at(&bytes, piece * PIECE_BYTES).unwrap();
            }
            file.sync_data().unwrap();
            plain_s.push(start.elapsed().as_secs_f64());
            disk.remove_file("plain").unwrap();

            let file = create(&disk, "object", b"");
            let start = Instant::now();
            file.set_size(FILL_BYTES).unwrap();
            let (sender, receiver) = crossbeam_channel::unbounded();
            for piece in 0..FILL_BYTES / PIECE_BYTES {
                let sender = sender.clone();
                let done = move |result: Result<u64, _>| sender.send(result.unwrap()).unwrap();
                let from = FillSource::Descriptor(source.clone());
                file.submit_fill(from, piece * PIECE_BYTES, PIECE_BYTES, Box::new(done));
            }
            drop(sender);
            assert_eq!(receiver.iter().sum::<u64>(), FILL_BYTES);
            file.sync_data().unwrap();
            fill_s.push(start.elapsed().as_secs_f64());
            disk.remove_file("object").unwrap();
        }
        println!(
            "{name}: 1 GiB durable: read/write {:.2} s, fill {:.2} times as fast",
            median(plain_s.clone()),
            median(plain_s) / median(fill_s)
        );
    }
}
