//! `write_mode=back` while the server is away: a mount comes up without it.

mod support;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use support::scene::timed;
use support::written_back::*;
use support::*;

/// A mount must be up within this, server or not, its journal read.
const UP_WITHIN: Duration = Duration::from_secs(5);
/// For a server that is back to be noticed.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);

/// A mount that brings nothing to the backend by itself, of a server that is waited for for long.
fn patient(test: &str) -> Place {
    Place::new(
        test,
        &[
            "writeback_delay=1h",
            "backend_timeout=10s",
            "revalidate_timeout=1s",
        ],
    )
}

fn write_synced(path: &Path, content: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(content).unwrap();
    file.sync_all().unwrap();
}

fn wait_until_known(place: &Place) {
    wait_until(LIMIT, "what is known to be kept", || {
        place.mount.status()["names"]["waiting"] == 0
    });
}

fn remount_in_time(place: &mut Place) {
    let (took, ()) = timed(|| place.mount.remount());
    assert!(took < UP_WITHIN, "mounting took {took:?}");
    let state = place.mount.status()["backend"]["state"].clone();
    assert_eq!(state, "away");
}

fn bring_server_back(place: &Place) {
    place.backend.resume();
    wait_until(NOTICED_WITHIN, "the server to be found", || {
        place.mount.status()["backend"]["state"] == "reachable"
    });
}

fn send_all(place: &Place) {
    let output = place.command("flush", place.mount.path(), &["--wait"]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_mount_with_a_journal_comes_up_with_its_server_stopped() {
    for is_killed in [true, false] {
        let mut place = patient("back-offline-up");
        write_synced(&place.here("file"), b"in the journal");
        wait_until_known(&place);
        if !is_killed {
            send_all(&place);
            place.mount.umount();
        } else {
            place.mount.kill9();
        }
        place.backend.stop();
        remount_in_time(&mut place);
        bring_server_back(&place);
        send_all(&place);
        place.expect_agreement("file");
    }
}
