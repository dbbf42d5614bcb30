//! `write_mode=back` while the server is away: a mount comes up without it, and what is in the journal is read and added to.

mod support;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
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

fn run<T: Send + 'static>(
    place: &Place,
    name: &str,
    work: impl FnOnce(&Path) -> T + Send + 'static,
) -> T {
    let path = place.here(name);
    with_time_limit(&place.scratch, LIMIT, move || work(&path))
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

/// Away, and known to be.
fn lose_server(place: &Place) {
    place.backend.stop();
    wait_until(NOTICED_WITHIN, "the server to be missed", || {
        // Whoever asks is how it is noticed.
        let _ = run(place, "", |path| fs::metadata(path.join("unheard of")));
        place.mount.status()["backend"]["state"] == "away"
    });
}

fn expect_content(place: &Place, name: &str, content: &[u8]) {
    let (took, read) = timed(|| run(place, name, |path| fs::read(path)));
    assert!(read.unwrap() == content, "{name} is another");
    assert!(took < UP_WITHIN, "reading {name} took {took:?}");
}

fn append(place: &Place, name: &str, content: &'static [u8]) {
    let (took, ()) = timed(|| {
        run(place, name, move |path| {
            let mut file = OpenOptions::new().append(true).open(path).unwrap();
            file.write_all(content).unwrap();
            file.sync_all().unwrap();
        })
    });
    assert!(took < UP_WITHIN, "appending to {name} took {took:?}");
}

#[test]
fn what_is_in_the_journal_is_read_and_added_to_while_the_server_is_away() {
    let place = patient("back-offline-read");
    let large = bytes(3, 3_000_000);
    write_synced(&place.here("small"), b"seven b");
    write_synced(&place.here("large"), &large);
    write_synced(&place.here("theirs"), b"of root");
    let for_all = Permissions::from_mode(0o666);
    fs::set_permissions(place.here("theirs"), for_all).unwrap();
    lose_server(&place);
    expect_content(&place, "small", b"seven b");
    expect_content(&place, "large", &large);
    append(&place, "small", b" and more");
    append(&place, "large", b"its end");
    expect_content(&place, "small", b"seven b and more");
    let longer = [&large, &b"its end"[..]].concat();
    expect_content(&place, "large", &longer);
    run(&place, "small", |path| {
        let file = OpenOptions::new().write(true).truncate(true).open(path);
        file.unwrap().write_all(b"anew").unwrap();
    });
    expect_content(&place, "small", b"anew");
    // The server was never asked what others may do.
    run(&place, "theirs", |path| {
        as_user(USER, || fs::read(path)).unwrap_err();
        as_user(USER, || OpenOptions::new().append(true).open(path)).unwrap_err();
    });
    bring_server_back(&place);
    let theirs = run(&place, "theirs", |path| as_user(USER, || fs::read(path)));
    assert_eq!(theirs.unwrap(), b"of root");
    send_all(&place);
    assert_eq!(fs::read(place.there("small")).unwrap(), b"anew");
    assert!(fs::read(place.there("large")).unwrap() == longer);
    assert_eq!(place.conflicts(), Vec::<PathBuf>::new());
}

#[test]
fn what_an_earlier_life_left_in_the_journal_is_read_without_the_server() {
    let mut place = patient("back-offline-earlier");
    let large = bytes(5, 3_000_000);
    write_synced(&place.here("small"), b"before");
    write_synced(&place.here("large"), &large);
    write_synced(&place.here("small"), b"seven b");
    wait_until_known(&place);
    place.mount.kill9();
    place.backend.stop();
    remount_in_time(&mut place);
    let length = run(&place, "small", |path| fs::metadata(path).unwrap().len());
    assert_eq!(length, 7);
    expect_content(&place, "small", b"seven b");
    expect_content(&place, "large", &large);
    bring_server_back(&place);
    send_all(&place);
    place.expect_agreement("small");
    place.expect_agreement("large");
}

#[test]
fn what_any_user_writes_goes_into_the_journal() {
    let place = patient("back-offline-users");
    write_synced(&place.here("theirs"), b"of root");
    chown(place.here("theirs"), Some(USER), Some(USER)).unwrap();
    send_all(&place);
    let open = |path: &Path| as_user(USER, || OpenOptions::new().append(true).open(path));
    let mut file = open(&place.here("theirs")).unwrap();
    let mut add = move |content: &[u8]| {
        as_user(USER, || {
            file.write_all(content)?;
            file.sync_all()
        })
    };
    add(b", added to").unwrap();
    assert_eq!(fs::read(place.there("theirs")).unwrap(), b"of root");
    lose_server(&place);
    let (took, added) = timed(|| add(b" without the server"));
    added.unwrap();
    assert!(took < UP_WITHIN, "it took {took:?}");
    bring_server_back(&place);
    send_all(&place);
    let there = fs::read(place.there("theirs")).unwrap();
    assert_eq!(there, b"of root, added to without the server");
}

#[test]
fn set_id_bits_go_at_once_with_a_write() {
    let place = patient("back-offline-set-id");
    let (here, there) = (place.here("program"), place.there("program"));
    write_synced(&here, b"content");
    chown(&here, Some(USER), Some(USER)).unwrap();
    fs::set_permissions(&here, Permissions::from_mode(0o6777)).unwrap();
    send_all(&place);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&here), mode(&there)), (0o6777, 0o6777));
    let write = || {
        let mut file = OpenOptions::new().write(true).open(&here)?;
        file.write_all(b"another")
    };
    as_user(USER, write).unwrap();
    assert_eq!((mode(&here), mode(&there)), (0o777, 0o777));
    send_all(&place);
    assert_eq!((mode(&here), mode(&there)), (0o777, 0o777));
    assert_eq!(fs::read(&there).unwrap(), b"another");
}
