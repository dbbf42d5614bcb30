use super::*;
use crate::daemon::test_scratch;
use std::os::unix::fs::PermissionsExt;

struct Setup {
    scratch: tempfile::TempDir,
    backend: PathBuf,
    mountpoint: PathBuf,
}

fn setup() -> Setup {
    let scratch = test_scratch();
    let root = scratch.path().canonicalize().expect("scratch");
    let (backend, mountpoint) = (root.join("backend"), root.join("mount"));
    std::fs::create_dir(&backend).expect("backend");
    std::fs::create_dir(&mountpoint).expect("mountpoint");
    Setup {
        scratch,
        backend,
        mountpoint,
    }
}

impl Setup {
    fn path(&self, name: &str) -> PathBuf {
        self.scratch
            .path()
            .canonicalize()
            .expect("scratch")
            .join(name)
    }

    fn open(&self, path: &Path) -> Result<CacheDirectory, Problem> {
        let neighbours = Neighbours {
            backend: &ResolvedPath::look_at(&self.backend),
            mountpoint: &ResolvedPath::look_at(&self.mountpoint),
        };
        CacheDirectory::open(path, false, neighbours)
    }
}

#[test]
fn a_missing_directory_is_made_private_and_held() {
    let setup = setup();
    let path = setup.path("cache");
    let directory = setup.open(&path).expect("opens");
    let mode = path.metadata().expect("made").permissions().mode() & 0o7777;
    assert_eq!(mode, 0o700);
    directory
        .check_disk()
        .expect("this disk can do what a cache needs");
    assert_eq!(
        std::fs::read_dir(&path).expect("list").count(),
        1,
        "only the lock file is left"
    );
}

#[test]
fn a_missing_parent_is_not_made_up() {
    let setup = setup();
    let problem = setup.open(&setup.path("not/mounted")).unwrap_err();
    assert!(matches!(problem, Problem::CannotCreate(_)) && problem.is_loss_of_disk());
}

#[test]
fn a_link_on_the_way_hides_nothing() {
    let setup = setup();
    let link = setup.path("link");
    std::os::unix::fs::symlink(&setup.backend, &link).expect("link");
    let inside = setup.open(&link.join("cache"));
    assert!(matches!(inside, Err(Problem::InsideBackend(_))));
    assert!(!setup.backend.join("cache").exists());
}

#[test]
fn a_symlink_and_a_file_are_told_apart_and_refused() {
    let setup = setup();
    let (link, file) = (setup.path("link"), setup.path("file"));
    std::os::unix::fs::symlink("/tmp", &link).expect("link");
    std::fs::write(&file, "x").expect("file");
    assert!(matches!(setup.open(&link), Err(Problem::Symlink)));
    assert!(matches!(setup.open(&file), Err(Problem::NotDirectory)));
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    let setup = setup();
    let path = setup.path("cache");
    std::fs::create_dir(&path).expect("made");
    for mode in [0o770, 0o707, 0o1777] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        let problem = setup.open(&path).unwrap_err();
        assert!(
            matches!(problem, Problem::WritableByOthers { .. }),
            "{problem}"
        );
        assert!(problem.to_string().contains("chmod 0700"));
    }
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let setup = setup();
    let path = setup.path("cache");
    std::fs::create_dir(&path).expect("made");
    std::os::unix::fs::chown(&path, Some(12345), None).expect("chown");
    let problem = setup.open(&path).unwrap_err();
    assert!(
        matches!(
            problem,
            Problem::NotOurs {
                owner_uid: 12345,
                ..
            }
        ),
        "{problem}"
    );
}

#[test]
fn a_directory_inside_or_around_backend_and_mountpoint_is_refused() {
    let setup = setup();
    let inside_backend = setup.open(&setup.backend.join("cache"));
    assert!(matches!(inside_backend, Err(Problem::InsideBackend(_))));
    assert!(
        !setup.backend.join("cache").exists(),
        "nothing is made in the backend"
    );
    assert!(matches!(
        setup.open(&setup.backend),
        Err(Problem::InsideBackend(_))
    ));
    let inside_mount = setup.open(&setup.mountpoint.join("cache"));
    assert!(matches!(inside_mount, Err(Problem::InsideMountpoint(_))));
    let around = setup.path(".");
    std::fs::set_permissions(&around, std::fs::Permissions::from_mode(0o700)).expect("chmod");
    assert!(matches!(
        setup.open(&around),
        Err(Problem::ContainsBackend(_))
    ));
}

#[test]
fn a_filesystem_without_holes_or_direct_io_is_refused() {
    let problem = probe_disk(Path::new("/proc"), "proc").unwrap_err();
    assert!(matches!(problem, Problem::Broken(_)), "{problem}");
    let setup = setup();
    probe_disk(&setup.backend, "scratch").expect("the scratch disk can do both");
    assert_eq!(
        std::fs::read_dir(&setup.backend).expect("list").count(),
        0,
        "nothing is left"
    );
}
