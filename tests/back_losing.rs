//! `write_mode=back`: dirty files lose their names, while they are uploaded and before a crash; nobody is imagined, nothing comes
//! back.

mod support;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::writing::read_write;
use support::written_back::{LIMIT, Place, bytes, create, errno};
use support::*;

/// Names on the server that no program gave.
fn strange_names(place: &Place) -> Vec<PathBuf> {
    let entries = fs::read_dir(&place.backend.plain).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_strange = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.contains(".conflict-") || name.contains(".removed-")
    };
    paths.filter(is_strange).collect()
}

fn expect_nothing_strange(place: &Place, context: &str) {
    let strange = strange_names(place);
    assert!(strange.is_empty(), "{context}: {strange:?}");
}

/// At any moment of an upload: before it looks, while it writes and syncs, while it ends.
#[test]
fn a_file_removed_while_it_is_uploaded_goes_on_for_those_who_have_it_open() {
    let place = Place::new("back-losing-open", &["writeback_delay=0"]);
    let mut random = Random::from_environment("back-losing-open");
    let slow = |milliseconds| {
        for operation in [Operation::Write, Operation::Fsync] {
            place.rule(operation, "*", Action::DelayMs(milliseconds));
        }
    };
    for number in 0..sample_or_full(90, 3000) {
        if number % 30 == 0 {
            place.backend.clear_rules();
            slow([0, 1, 5][number / 30 % 3]);
        }
        let path = place.here(&format!("file{number}"));
        let file = create(&path);
        file.write_all_at(&bytes(1, 5000), 0).unwrap();
        file.sync_all().unwrap();
        drop(file);
        if random.below(2) == 0 {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let file = read_write(&path);
        file.set_len(5000).unwrap();
        std::thread::sleep(Duration::from_micros(random.below(9000)));
        fs::remove_file(&path).unwrap();
        file.write_all_at(b"nameless", 0).unwrap();
        file.sync_all().unwrap();
        std::thread::sleep(Duration::from_micros(random.below(20_000)));
        let mut expected = bytes(1, 5000);
        expected[..8].copy_from_slice(b"nameless");
        let mut found = vec![0; 6000];
        let read = file.read_at(&mut found, 0).unwrap();
        assert!(found[..read] == expected, "file{number}");
        assert_eq!(file.metadata().unwrap().len(), 5000);
    }
    place.wait_for_backend();
    expect_nothing_strange(&place, "nobody else was there");
    assert_eq!(place.mount.status_number("journal.dirty_bytes"), 0);
}

type Act = fn(&Place, &Path);

#[test]
fn what_was_removed_or_replaced_stays_so_after_a_killed_daemon() {
    let mut place = Place::late("back-losing-killed");
    let acts: [(&str, Act, Option<&[u8]>); 5] = [
        ("removed", |_, path| fs::remove_file(path).unwrap(), None),
        ("replaced", replace, Some(b"new")),
        ("made-anew", remove_and_make, Some(b"new")),
        ("open", remove_open, None),
        ("beside-others", remove_beside, None),
    ];
    for round in 0..sample_or_full(2, 50) {
        for (name, act, left) in acts {
            let context = format!("{name}, round {round}");
            let path = place.here(name);
            let file = create(&path);
            file.write_all_at(&bytes(1, 20_000), 0).unwrap();
            file.sync_all().unwrap();
            drop(file);
            act(&place, &path);
            place.mount.kill9();
            place.mount.remount();
            place.wait_for_backend();
            expect_nothing_strange(&place, &context);
            let there = fs::read(place.there(name)).ok();
            match left {
                // Written and not synced: a prefix of it.
                Some(new) => assert!(new.starts_with(&there.unwrap()), "{context}"),
                None => assert!(there.is_none(), "{context}"),
            }
        }
    }
}

fn replace(place: &Place, path: &Path) {
    let other = place.here("other");
    fs::write(&other, b"new").unwrap();
    fs::rename(&other, path).unwrap();
}

fn remove_and_make(_: &Place, path: &Path) {
    fs::remove_file(path).unwrap();
    fs::write(path, b"new").unwrap();
}

/// Written to before and after.
fn remove_open(_: &Place, path: &Path) {
    let file = read_write(path);
    file.write_all_at(b"before", 100).unwrap();
    fs::remove_file(path).unwrap();
    file.write_all_at(b"after", 200).unwrap();
    file.sync_all().unwrap();
}

fn remove_beside(place: &Place, path: &Path) {
    let other = place.here("kept");
    fs::write(&other, bytes(3, 1000)).unwrap();
    fs::remove_file(path).unwrap();
}

/// That it is kept is on stable storage before the program hears that it could not be removed.
#[test]
fn a_file_that_could_not_be_removed_here_is_kept_when_somebody_else_removes_it() {
    let options = ["writeback_delay=1h", "batch_interval=30s"];
    let mut place = Place::new("back-losing-refused", &options);
    let denied = Action::Errno(libc::EACCES);
    for round in 0..sample_or_full(2, 50) {
        for operation in [Operation::Unlink, Operation::Rename] {
            let (path, other) = (place.here("file"), place.here("other"));
            for written in [&path, &other] {
                let file = create(written);
                file.write_all_at(&bytes(1, 20_000), 0).unwrap();
                file.sync_all().unwrap();
            }
            place.rule(operation, "*", denied);
            let refused = match operation {
                Operation::Unlink => fs::remove_file(&path),
                _ => fs::rename(&other, &path),
            };
            assert_eq!(errno(refused), Some(libc::EACCES));
            place.mount.kill9();
            place.backend.clear_rules();
            fs::remove_file(place.there("file")).unwrap();
            place.mount.remount();
            place.wait_for_backend();
            let kept = strange_names(&place);
            assert_eq!(kept.len(), 1, "{operation:?}, round {round}");
            let name = kept[0].to_string_lossy();
            assert!(name.contains("file.removed-"), "{name}");
            assert!(fs::read(&kept[0]).unwrap() == bytes(1, 20_000), "{name}");
            fs::remove_file(&kept[0]).unwrap();
        }
    }
}

#[test]
fn a_daemon_killed_while_it_removes_knows_that_it_was_its_own_doing() {
    let mut place = Place::late("back-losing-removing");
    for round in 0..sample_or_full(3, 50) {
        let (gone, stays) = (place.here("gone"), place.here("stays"));
        for path in [&gone, &stays] {
            let file = create(path);
            file.write_all_at(&bytes(round as u8, 20_000), 0).unwrap();
            file.sync_all().unwrap();
        }
        // Refused: what was announced is not.
        let refused = place.rule(Operation::Unlink, "stays", Action::Errno(libc::EACCES));
        assert_eq!(errno(fs::remove_file(&stays)), Some(libc::EACCES));
        place.backend.remove_rule(refused);
        let hang = place.rule(Operation::Unlink, "gone", Action::Hang);
        let remover = std::thread::spawn(move || {
            let _ = fs::remove_file(gone);
        });
        place.backend.wait_for_hung(1);
        let stuck = place.mount.kill_stuck();
        place.backend.remove_rule(hang);
        place.backend.release(None);
        drop(stuck);
        remover.join().unwrap();
        wait_until(LIMIT, "the name to be gone", || {
            !place.there("gone").exists()
        });
        place.mount.remount();
        place.wait_for_backend();
        place.expect_agreement("stays");
        expect_nothing_strange(&place, &format!("round {round}"));
    }
    // A file that somebody else removes is kept all the same, also one that we could not remove.
    let file = create(&place.here("synced"));
    fs::write(place.here("stays"), b"ours").unwrap();
    let refused = place.rule(Operation::Unlink, "stays", Action::Errno(libc::EACCES));
    assert!(fs::remove_file(place.here("stays")).is_err());
    place.backend.remove_rule(refused);
    fs::remove_file(place.there("stays")).unwrap();
    file.write_all_at(b"what came before is there, too", 0)
        .unwrap();
    file.sync_all().unwrap();
    place.mount.kill9();
    drop(file);
    place.mount.remount();
    place.wait_for_backend();
    let strange = strange_names(&place);
    assert_eq!(strange.len(), 1, "{strange:?}");
    assert_eq!(fs::read(&strange[0]).unwrap(), b"ours");
}

/// What has a name again is looked for again.
#[test]
fn a_file_without_a_name_that_gets_one_is_kept_over_a_killed_daemon() {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    let scratch = Scratch::new("back-losing-linked");
    let plain = scratch.directory("plain");
    let options = MountOptions::new(&scratch)
        .with("write_mode=back")
        .with("journal_size=64M")
        .with("writeback_delay=1h");
    let mut mount = Mount::start(&scratch, &plain, options);
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .open(mount.path())
        .unwrap();
    file.write_all_at(b"before it had a name", 0).unwrap();
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    nix::unistd::linkat(
        nix::fcntl::AT_FDCWD,
        from.as_str(),
        nix::fcntl::AT_FDCWD,
        &mount.join("name"),
        nix::fcntl::AtFlags::AT_SYMLINK_FOLLOW,
    )
    .unwrap();
    file.write_all_at(b", and afterwards", 20).unwrap();
    file.sync_all().unwrap();
    mount.kill9();
    drop(file);
    mount.remount();
    let expected = b"before it had a name, and afterwards";
    assert_eq!(fs::read(mount.join("name")).unwrap(), expected);
    mount.umount();
    assert_eq!(fs::read(plain.join("name")).unwrap(), expected);
    assert_eq!(fs::read_dir(&plain).unwrap().count(), 1);
}

/// Two files change their names with one another while both are being uploaded.
#[test]
fn dirty_files_that_are_exchanged_are_nobody_elses() {
    let place = Place::new("back-losing-exchanged", &["writeback_delay=0"]);
    place.rule(Operation::Write, "*", Action::DelayMs(2));
    let mut files = [create(&place.here("one")), create(&place.here("other"))];
    for round in 0..sample_or_full(60, 2000) {
        for (number, file) in files.iter().enumerate() {
            file.write_all_at(&bytes((round + number) as u8, 3000), 0)
                .unwrap();
        }
        nix::fcntl::renameat2(
            nix::fcntl::AT_FDCWD,
            &place.here("one"),
            nix::fcntl::AT_FDCWD,
            &place.here("other"),
            nix::fcntl::RenameFlags::RENAME_EXCHANGE,
        )
        .unwrap();
        files.swap(0, 1);
    }
    place.wait_for_backend();
    expect_nothing_strange(&place, "nobody else was there");
    for name in ["one", "other"] {
        place.expect_agreement(name);
    }
}
