//! A mapping outlives its handle and the cached copy: its bytes stay right whatever is evicted.

mod support;

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;
use support::reading::Mapping;
use support::*;

const LIMIT: Duration = Duration::from_secs(60);

/// Opens, maps, closes, evicts, reads the mapping; then the file again.
fn check(test: &str, size_bytes: u64, options: &[&str]) {
    let scratch = Scratch::new(test);
    let backend = FaultBackend::start(&scratch, BackendOptions::default());
    let content = Content::new(31, 1, size_bytes);
    content.create(&backend.plain.join("file")).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let mut mount_options = MountOptions::new(&scratch);
    mount_options.options = options.iter().map(|option| (*option).to_owned()).collect();
    let mount = Mount::start(&scratch, &backend.mountpoint, mount_options);
    let path = mount.join("file");

    // Read once, so that the next open finds it complete.
    let first = path.clone();
    with_time_limit(&scratch, LIMIT, move || {
        support::content::expect_content(&first, content)
    });
    std::thread::sleep(Duration::from_secs(1));
    let mapped = path.clone();
    let mapping = with_time_limit(&scratch, LIMIT, move || {
        let file = File::open(mapped).unwrap();
        let mapping = Arc::new(Mapping::new(&file, size_bytes as usize).unwrap());
        // The first page is faulted in before, the others after the eviction.
        assert_eq!(
            content.check(0, &mapping.read(0, 4096.min(size_bytes as usize))),
            Ok(())
        );
        mapping
    });
    for round in 0..3 {
        let output = mount.command("evict", &[], Duration::from_secs(20));
        // 3: some are in use and stay.
        assert!(
            matches!(output.status.code(), Some(0 | 3)),
            "evict: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        mapping.forget_pages();
        support::reading::drop_caches().unwrap();
        let reader = mapping.clone();
        let bytes = with_time_limit(&scratch, LIMIT, move || reader.read(0, size_bytes as usize));
        assert_eq!(content.check(0, &bytes), Ok(()), "round {round}");
    }
    drop(mapping);
    let again = path.clone();
    with_time_limit(&scratch, LIMIT, move || {
        support::content::expect_content(&again, content)
    });
}

#[test]
fn a_mapping_of_a_passthrough_file_survives_eviction() {
    check("mapped-passthrough", 9 << 20, &[]);
}

#[test]
fn a_mapping_without_passthrough_survives_eviction() {
    check("mapped-cached", 9 << 20, &["passthrough=off"]);
}

#[test]
fn a_mapping_of_a_small_file_survives_eviction() {
    check("mapped-small", 5000, &[]);
}

#[test]
fn a_mapping_with_direct_io_survives_eviction() {
    check("mapped-direct", 9 << 20, &["direct_io"]);
}
