//! Writes of a device's thread.

use super::*;

type Write = fn(&dyn IoFile, &[u8], u64) -> std::io::Result<()>;

/// Past the page cache, and through it.
const WRITES: [Write; 2] = [
    |file, data, offset| file.write_past_cache(data, offset),
    |file, data, offset| file.write_behind(data, offset),
];

#[test]
fn a_device_thread_writes_and_syncs_what_it_is_given() {
    let cases = || {
        WRITES
            .into_iter()
            .flat_map(|write| engines().into_iter().map(move |engine| (write, engine)))
    };
    for (write, (name, settings)) in cases() {
        let scratch = Scratch::new();
        let engine = Engine::start(settings).unwrap();
        let disk = scratch.disk(&engine);
        let file = disk.open("one", OpenMode::CreateNew).unwrap();
        let other = disk.open("other", OpenMode::CreateNew).unwrap();
        let bytes = pattern(1 << 20, 1);
        let mut is_called = false;
        let io: Arc<dyn Io> = disk.clone();
        io.as_device_thread(1 << 20, &mut |mut buffer| {
            is_called = true;
            assert!(buffer.is_aligned() && buffer.len() == 1 << 20, "{name}");
            buffer.copy_from_slice(&bytes);
            // Short ones, a long one, and what is not registered.
            write(&*file, &buffer[4096..12288], 0).unwrap();
            write(&*file, &buffer[..512 << 10], 8192).unwrap();
            write(&*other, &buffer[100..200], 7).unwrap();
            write(&*file, &bytes[..5000], 8192 + (512 << 10)).unwrap();
            write(&*file, &buffer[..0], 0).unwrap();
            file.sync_data().unwrap();
            other.sync_data().unwrap();
        })
        .unwrap();
        assert!(is_called, "{name}");
        let expected = [&bytes[4096..12288], &bytes[..512 << 10], &bytes[..5000]].concat();
        assert!(
            std::fs::read(scratch.path().join("one")).unwrap() == expected,
            "{name}"
        );
        let written = std::fs::read(scratch.path().join("other")).unwrap();
        assert!(
            written[7..] == bytes[100..200] && written[..7] == [0; 7],
            "{name}"
        );
    }
}

#[test]
fn an_error_of_a_device_threads_write_is_the_disks() {
    for (name, settings) in engines() {
        let scratch = Scratch::new();
        let engine = Engine::start(settings).unwrap();
        let disk = scratch.disk(&engine);
        std::fs::write(scratch.path().join("file"), "kept").unwrap();
        let file = disk.open("file", OpenMode::Read).unwrap();
        disk.as_device_thread(1 << 20, &mut |buffer| {
            for write in WRITES {
                for length_bytes in [4096, 1 << 20] {
                    let refused = write(&*file, &buffer[..length_bytes], 0).unwrap_err();
                    assert_eq!(refused.raw_os_error(), Some(libc::EBADF), "{name}");
                }
            }
        })
        .unwrap();
        assert_eq!(std::fs::read(scratch.path().join("file")).unwrap(), b"kept");
    }
}
