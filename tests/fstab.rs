//! What /etc/fstab promises of the backend, where a mount begins before that is there.

mod support;

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;
use support::mount::PROGRAM;
use support::*;

const LIMIT: Duration = Duration::from_secs(60);

/// A machine, in a mount namespace, whose /etc/fstab has a filesystem for the directory `export`, with one file in it.
struct Machine {
    scratch: Scratch,
    options: MountOptions,
}

impl Machine {
    fn new(test: &str) -> Self {
        let scratch = Scratch::new(test);
        let options = MountOptions::new(&scratch);
        fs::write(scratch.directory("disk").join("file"), "content").unwrap();
        let export = scratch.directory("export");
        let line = format!("server:/x {} nfs defaults 0 0\n", export.display());
        fs::write(scratch.path().join("fstab"), line).unwrap();
        Self { scratch, options }
    }

    /// Runs a script of sh, which ends what it has mounted. `begin` mounts the cache, `arrive` the export.
    fn run(&self, script: &str) -> Output {
        let helpers = "set -e; mount --bind fstab /etc/fstab\n\
             begin() { \"$PROGRAM\" mount $PWD/export mount -o \"$OPTIONS\"; }\n\
             arrive() { mount --bind disk export; }\n\
             end() { \"$PROGRAM\" umount mount; }\n";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", &format!("{helpers}{script}")])
            .current_dir(self.scratch.path())
            .env("PROGRAM", PROGRAM)
            .env("OPTIONS", self.options.option_text());
        support::process::run(command, LIMIT)
    }

    fn expect(&self, script: &str) -> String {
        let output = self.run(script);
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn what_fstab_promises_is_waited_for_and_never_taken_for_its_mountpoint() {
    let mut machine = Machine::new("fstab-new");
    machine.options = machine.options.with("backend_timeout=2s");
    let refused = machine.run("begin");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(32), "{refused:?}");
    assert!(told.contains("/etc/fstab has a filesystem"), "{told}");
    // Nor is a directory of it that is not there yet missing.
    let refused =
        machine.run("mkdir disk/below; \"$PROGRAM\" mount $PWD/export/below mount -o \"$OPTIONS\"");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("/etc/fstab has a filesystem"), "{told}");
    machine.options = machine.options.with("backend_timeout=30s");
    let read = machine.expect("begin & arrive; wait $!; cat mount/file; end");
    assert_eq!(read, "content");
}

#[test]
fn what_was_cached_is_served_until_what_fstab_promises_is_there() {
    let machine = Machine::new("fstab-known");
    // Names are on disk within about a second.
    let read = machine.expect("arrive; begin; cat mount/file; sleep 2; end");
    assert_eq!(read, "content");
    let is_back = "until \"$PROGRAM\" status mount --json | tr -d ' \\n' | grep -q '\"reachable\":true'; do sleep 0.1; done";
    let script = format!(
        "begin; cat mount/file; \"$PROGRAM\" status mount; echo more >disk/second; arrive; {is_back}; cat mount/second; end"
    );
    let told = machine.expect(&script);
    assert!(told.starts_with("content"), "{told}");
    assert!(told.contains("/etc/fstab has a filesystem"), "{told}");
    assert!(told.ends_with("more\n"), "{told}");
}
