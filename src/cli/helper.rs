//! What mount(8) runs: `mount.cachefs SOURCE DIR [-sfnv] [-N namespace] [-o options] [-t type]`. The
//! same code path as `nfs-cachefs mount`.

use super::mount::as_named;
use super::{complain, say, umount_helper, write_or_end};
use crate::config::{ConfigError, Given, Tolerance};
use crate::daemon::error::exit_status;
use crate::daemon::fstab::entry_for;
use crate::daemon::guard;
use crate::daemon::remount::remount;
use crate::daemon::start::{MountRequest, mount};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

const USAGE: &str = "usage: mount.cachefs SOURCE DIR [-sfnv] [-N namespace] [-o options] [-t type]\n\
                     Called by `mount -t cachefs -o OPTIONS SOURCE DIR`; SOURCE is the directory to cache, or any word where the\n\
                     option nfs_backend names it. `nfs-cachefs options` lists the options.";

/// What mount(8) asked for.
#[derive(Debug, PartialEq, Eq)]
struct Invocation {
    source: OsString,
    mountpoint: PathBuf,
    options: Vec<OsString>,
    tolerance: Tolerance,
    /// Check everything that can be checked and mount nothing.
    fake: bool,
    verbose: bool,
}

/// Runs the helper and returns the exit status. Called while the process has one thread.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if guard::is_asked_for(arguments.first()) {
        return guard::run(arguments);
    }
    if umount_helper::is_asked_for(arguments.first()) {
        return umount_helper::run(arguments);
    }
    if let [_, only] = &arguments[..]
        && (only == "--help" || only == "-h")
    {
        say(&format!("{USAGE}\n"));
        return exit_status::SUCCESS;
    }
    let invocation = match read_arguments(arguments) {
        Ok(invocation) => invocation,
        Err(error) => {
            complain(error);
            let _ = write_or_end(std::io::stderr(), &format!("{USAGE}\n"));
            return exit_status::USAGE;
        }
    };
    if let Some(words) = remount_words(&invocation) {
        return remount_as_told(&invocation, &words);
    }
    let (fake, verbose) = (invocation.fake, invocation.verbose);
    let request = match to_request(invocation) {
        Ok(request) => request,
        Err(error) => {
            complain(error);
            return exit_status::USAGE;
        }
    };
    if verbose {
        say(&describe(&request));
    }
    if fake {
        return exit_status::SUCCESS;
    }
    mount(request)
}

fn read_arguments(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, String> {
    let mut positional = Vec::new();
    let mut invocation = Invocation {
        source: OsString::new(),
        mountpoint: PathBuf::new(),
        options: Vec::new(),
        tolerance: Tolerance::Strict,
        fake: false,
        verbose: false,
    };
    let mut arguments = arguments.into_iter().skip(1);
    let mut only_positional = false;
    while let Some(argument) = arguments.next() {
        let letters = match argument.as_bytes() {
            b"--" if !only_positional => {
                only_positional = true;
                continue;
            }
            [b'-', letters @ ..] if !letters.is_empty() && !only_positional => letters,
            _ => {
                positional.push(argument);
                continue;
            }
        };
        for (at, letter) in letters.iter().enumerate() {
            match letter {
                b's' => invocation.tolerance = Tolerance::Sloppy,
                b'f' => invocation.fake = true,
                b'v' => invocation.verbose = true,
                b'n' => {}
                b'o' | b'N' | b't' => {
                    let attached = OsStr::from_bytes(&letters[at + 1..]).to_owned();
                    let value = match attached.is_empty() {
                        true => arguments.next(),
                        false => Some(attached),
                    };
                    let value =
                        value.ok_or_else(|| format!("-{} needs a value", char::from(*letter)))?;
                    // mount(8) has entered the namespace of -N, and -t is the type we were called for.
                    if *letter == b'o' {
                        invocation.options.push(value);
                    }
                    break;
                }
                other => return Err(format!("unknown flag -{}", char::from(*other))),
            }
        }
    }
    let Ok([source, mountpoint]) = <[OsString; 2]>::try_from(positional) else {
        return Err("SOURCE and DIR are needed".to_owned());
    };
    invocation.source = source;
    invocation.mountpoint = PathBuf::from(mountpoint);
    Ok(invocation)
}

/// The options of `mount -o remount,...`.
fn remount_words(invocation: &Invocation) -> Option<Vec<String>> {
    let lists = invocation.options.iter();
    let words: Vec<String> = lists
        .flat_map(|list| {
            list.to_string_lossy()
                .split(',')
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    words.iter().any(|word| word == "remount").then_some(words)
}

fn remount_as_told(invocation: &Invocation, words: &[String]) -> i32 {
    if invocation.fake {
        return exit_status::SUCCESS;
    }
    match remount(&invocation.mountpoint, words) {
        Ok(()) => exit_status::SUCCESS,
        Err(error) => {
            complain(error);
            exit_status::MOUNT_FAILED
        }
    }
}

/// mount(8) says `rw` where nobody did, which would count more than `ro` of the settings file.
fn asked(list: &OsStr) -> OsString {
    let words = list.as_bytes().split(|byte| *byte == b',');
    let asked: Vec<&[u8]> = words.filter(|word| *word != b"rw").collect();
    OsStr::from_bytes(&asked.join(&b',')).to_owned()
}

/// The backend is nfs_backend, or the source where that is an absolute path.
fn to_request(invocation: Invocation) -> Result<MountRequest, ConfigError> {
    let mountpoint = as_named(&invocation.mountpoint);
    let given = Given {
        fstab: entry_for(&mountpoint).map(|entry| entry.options),
        mountpoint,
        lists: invocation.options.iter().map(|list| asked(list)).collect(),
        tolerance: invocation.tolerance,
    };
    let resolved = given.resolve(nix::unistd::geteuid().is_root())?;
    let source_path = PathBuf::from(&invocation.source);
    let backend = match &resolved.settings.backend {
        Some(named) => Some(named.clone()),
        None => source_path.is_absolute().then_some(source_path),
    };
    if backend.is_none() {
        return Err(ConfigError::MissingValue {
            name: "nfs_backend".to_owned(),
            expected: "the directory to cache".to_owned(),
        });
    }
    Ok(MountRequest {
        source: invocation.source,
        backend,
        mountpoint: invocation.mountpoint,
        resolved,
        given,
        foreground: false,
    })
}

fn describe(request: &MountRequest) -> String {
    let backend = request
        .backend
        .as_deref()
        .unwrap_or(request.mountpoint.as_path());
    let mut text = format!(
        "mount.cachefs: {} caches {} as '{}'\n",
        request.mountpoint.display(),
        backend.display(),
        request.source.to_string_lossy()
    );
    for (name, value) in request.resolved.settings.in_effect() {
        text.push_str(&format!("mount.cachefs: {name}={value}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Invocation, String> {
        let all = ["mount.cachefs"].iter().chain(words).map(OsString::from);
        read_arguments(all)
    }

    #[test]
    fn mount8_may_call_us_in_every_way_it_does() {
        let called = read(&["cachefs", "/mnt/c", "-o", "rw,nfs_backend=/mnt/nfs"]).expect("parsed");
        let request = to_request(called).expect("request");
        assert_eq!(request.source, "cachefs");
        assert_eq!(request.backend, Some(PathBuf::from("/mnt/nfs")));
        assert_eq!(request.mountpoint, PathBuf::from("/mnt/c"));
        assert!(!request.foreground);
        let called = read(&[
            "/mnt/nfs",
            "/mnt/c",
            "-sfnv",
            "-t",
            "cachefs",
            "-oro,log=debug",
        ]);
        let called = called.expect("parsed");
        assert!(called.fake && called.verbose && called.tolerance == Tolerance::Sloppy);
        let request = to_request(called).expect("request");
        assert_eq!(request.backend, Some(PathBuf::from("/mnt/nfs")));
        assert!(request.resolved.settings.mount_flags.read_only);
        let called = read(&["-N", "/proc/1/ns/mnt", "--", "a", "-b"]).expect("parsed");
        assert_eq!(called.mountpoint, PathBuf::from("-b"));
    }

    #[test]
    fn a_word_that_mount8_always_says_counts_less_than_the_settings_file() {
        let scratch = crate::daemon::test_scratch();
        let file = scratch.path().join("settings.toml");
        std::fs::write(&file, "[default]\nro = true\n").unwrap();
        for words in ["rw", "noatime,rw", "rw,noatime"] {
            let options = format!("{words},config={}", file.display());
            let called = read(&["/mnt/nfs", "/mnt/c", "-o", &options]).expect("parsed");
            let flags = to_request(called)
                .expect("request")
                .resolved
                .settings
                .mount_flags;
            assert!(flags.read_only, "{words}");
        }
    }

    #[test]
    fn help_is_no_error() {
        let words = ["mount.cachefs", "--help"].map(OsString::from);
        assert_eq!(run(words), exit_status::SUCCESS);
    }

    #[test]
    fn wrong_calls_are_refused() {
        assert!(read(&["only-source"]).is_err());
        assert!(read(&["a", "b", "c"]).is_err());
        assert!(read(&["a", "b", "-x"]).unwrap_err().contains("-x"));
        assert!(read(&["a", "b", "-o"]).unwrap_err().contains("-o"));
        let no_backend = to_request(read(&["cachefs", "/mnt/c"]).expect("parsed"));
        assert!(no_backend.unwrap_err().to_string().contains("nfs_backend"));
    }

    #[test]
    fn unknown_options_pass_only_when_sloppy() {
        let options = ["/nfs", "/mnt/c", "-o", "speed=fast"];
        assert!(to_request(read(&options).expect("parsed")).is_err());
        let sloppy = [&options[..], &["-s"]].concat();
        assert!(to_request(read(&sloppy).expect("parsed")).is_ok());
    }
}
