use super::*;
use crate::config::{Tolerance, parse_options};
use crate::daemon::test_scratch;

struct Setup {
    _scratch: tempfile::TempDir,
    root: PathBuf,
}

fn setup() -> Setup {
    let scratch = test_scratch();
    let root = scratch.path().canonicalize().expect("scratch");
    for name in ["backend", "mount"] {
        std::fs::create_dir(root.join(name)).expect("directory");
    }
    Setup {
        _scratch: scratch,
        root,
    }
}

impl Setup {
    fn settings(&self, more: &str) -> Settings {
        let list = format!("nfs_backend={}/backend,{more}", self.root.display());
        parse_options(&[list], Tolerance::Strict).expect("options")
    }

    fn prepare(&self, more: &str, mountpoint: &str) -> Result<Prepared, StartError> {
        let settings = self.settings(&format!("cache_dir={}/cache,{more}", self.root.display()));
        prepare(
            &settings,
            "cachefs".into(),
            None,
            &self.root.join(mountpoint),
        )
    }
}

#[test]
fn a_good_mount_yields_open_descriptors_and_resolved_paths() {
    let setup = setup();
    std::os::unix::fs::symlink("mount", setup.root.join("link")).expect("link");
    let prepared = setup.prepare("", "link").expect("prepared");
    assert_eq!(prepared.mountpoint, setup.root.join("mount"));
    assert_eq!(prepared.backend_path, setup.root.join("backend"));
    assert_eq!(prepared.cache_directories.len(), 1);
    assert!(prepared.lost_cache_directories.is_empty());
}

#[test]
fn a_bad_backend_says_which_way_it_is_bad() {
    let setup = setup();
    std::fs::write(setup.root.join("file"), "").expect("file");
    let nfs = |name: &str| format!("nfs_backend={}", setup.root.join(name).display());
    let missing = setup.prepare(&nfs("none"), "mount").unwrap_err();
    assert!(
        matches!(missing, StartError::BackendMissing(_)),
        "{missing}"
    );
    let file = setup.prepare(&nfs("file"), "mount").unwrap_err();
    assert!(matches!(file, StartError::BackendNotDirectory(_)), "{file}");
    assert_eq!(file.exit_status(), 32);
    let none = prepare(&Settings::default(), "x".into(), None, &setup.root).unwrap_err();
    assert!(matches!(none, StartError::NoBackend));
    assert_eq!(none.exit_status(), 1);
}

#[test]
fn a_bad_mountpoint_says_which_way_it_is_bad() {
    let setup = setup();
    std::fs::write(setup.root.join("file"), "").expect("file");
    let missing = setup.prepare("", "none").unwrap_err();
    assert!(
        matches!(missing, StartError::MountpointMissing(_)),
        "{missing}"
    );
    let file = setup.prepare("", "file").unwrap_err();
    assert!(
        matches!(file, StartError::MountpointNotDirectory(_)),
        "{file}"
    );
    std::fs::create_dir(setup.root.join("backend/inner")).expect("directory");
    let inner = setup.prepare("", "backend/inner").unwrap_err();
    assert!(
        matches!(inner, StartError::MountpointInsideBackend { .. }),
        "{inner}"
    );
}

#[test]
fn mounting_over_the_backend_itself_is_allowed() {
    let setup = setup();
    setup.prepare("", "backend").expect("prepared");
}

#[test]
fn a_lost_disk_among_several_is_left_out_and_a_wrong_one_is_an_error() {
    let setup = setup();
    let root = setup.root.display().to_string();
    let dirs = |list: &str| format!("cache_dir={}", list.replace('@', &root));
    let prepared = setup
        .prepare(&dirs("@/c1:@/lost/c2"), "mount")
        .expect("one is enough");
    assert_eq!(
        prepared.lost_cache_directories[0].path,
        setup.root.join("lost/c2")
    );
    assert_eq!(prepared.cache_directories.len(), 1);
    drop(prepared);
    for list in ["@/c1:@/c1", "@/c1:@/backend/x", "@/c1:@/c1/inner"] {
        let error = setup.prepare(&dirs(list), "mount").unwrap_err();
        assert!(
            matches!(error, StartError::CacheDirectory { .. }),
            "{list}: {error}"
        );
    }
    let error = setup
        .prepare(&dirs("@/lost/a:@/lost/b"), "mount")
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("lost/a") && text.contains("lost/b"), "{text}");
}

#[test]
fn without_cache_dir_one_is_made_after_the_backend() {
    let setup = setup();
    let (backend, mountpoint) = (setup.root.join("backend"), setup.root.join("mount"));
    let neighbours = Neighbours {
        backend: &ResolvedPath::look_at(&backend),
        mountpoint: &ResolvedPath::look_at(&mountpoint),
    };
    let parent = setup.root.join("var/cache");
    let opened = open_cache_directories(&Settings::default(), neighbours, &parent).expect("made");
    assert_eq!(
        opened.directories[0].path,
        parent.join(mount_table::path_as_name(&backend))
    );
}

#[test]
fn a_call_that_hangs_is_given_up() {
    let (release, held) = crossbeam_channel::bounded::<()>(0);
    let answer = with_timeout(Duration::from_millis(20), move || held.recv().is_err());
    assert_eq!(answer.expect("thread"), None);
    drop(release);
}
