use super::*;
use crate::daemon::test_scratch;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

#[derive(Default)]
struct Seen {
    evicted: Mutex<Vec<PathBuf>>,
    stopped: AtomicUsize,
}

fn pin(path: &Path) -> Pin {
    Pin {
        path: path.into(),
        files: 1,
        bytes: 10,
        missing_files: 0,
        missing_bytes: 0,
        trouble: None,
    }
}

fn serve(directory: &Path, mountpoint: &Path) -> (ControlSocket, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let (evicting, stopping) = (seen.clone(), seen.clone());
    let handlers = Handlers {
        status: Box::new(|| Status {
            name: "test".to_owned(),
            ..Status::default()
        }),
        why: Box::new(|_| Ok(WhyStatus::default())),
        reload: Box::new(|| Ok(Changes::default())),
        scrub: Box::new(|| Ok(7)),
        journal: Box::new(|_| Ok(())),
        back: Box::new(|_| anyhow::bail!("nothing is written back")),
        evict: Box::new(move |paths| {
            anyhow::ensure!(
                !paths.iter().any(|path| path == Path::new("bad")),
                "no such file"
            );
            evicting.evicted.lock().extend_from_slice(paths);
            Ok(Evicted {
                files: paths.len() as u64,
                ..Evicted::default()
            })
        }),
        pins: Box::new(|change| match change {
            PinChange::Pin(paths) => Ok(paths.iter().map(|path| pin(path)).collect()),
            PinChange::Unpin(_) => anyhow::bail!("not pinned"),
            PinChange::Nothing => Ok(Vec::new()),
        }),
        watch: Arc::default(),
        stop: Box::new(move || {
            stopping.stopped.fetch_add(1, Ordering::AcqRel);
        }),
    };
    let socket = ControlSocket::serve(directory, mountpoint, Arc::new(handlers)).expect("socket");
    (socket, seen)
}

const SECONDS_5: Duration = Duration::from_secs(5);

#[test]
fn requests_reach_their_handlers_and_replies_come_back() {
    let scratch = test_scratch();
    let mountpoint = Path::new("/mnt/x");
    let (_socket, seen) = serve(scratch.path(), mountpoint);
    let ask = |request: &Request| {
        let client = Client::connect(scratch.path(), mountpoint).expect("connects");
        assert_eq!(client.daemon_pid().expect("pid"), std::process::id() as i32);
        client.ask(request, SECONDS_5).expect("answers")
    };
    assert!(matches!(ask(&Request::Status), Reply::Status(status) if status.name == "test"));
    let odd = Path::new(OsStr::from_bytes(b"a/\xff"));
    let paths = vec![WirePath::from(Path::new("dir/file")), WirePath::from(odd)];
    let reply = ask(&Request::Evict { paths });
    assert!(matches!(reply, Reply::Evicted(evicted) if evicted.files == 2));
    assert_eq!(*seen.evicted.lock(), [Path::new("dir/file"), odd]);
    let paths = vec![WirePath::from(Path::new("bad"))];
    assert!(
        matches!(ask(&Request::Evict { paths }), Reply::Error { message } if message.contains("no such file"))
    );
    let paths = vec![WirePath::from(odd)];
    let pinned = Reply::Pins {
        pins: vec![pin(odd)],
    };
    let request = Request::Pin {
        paths: paths.clone(),
    };
    assert_eq!(ask(&request), pinned);
    let refused = ask(&Request::Unpin { paths });
    assert!(matches!(refused, Reply::Error { message } if message == "not pinned"));
    assert_eq!(ask(&Request::Pins), Reply::Pins { pins: Vec::new() });
    assert_eq!(ask(&Request::Stop), Reply::Stopping);
    assert_eq!(seen.stopped.load(Ordering::Acquire), 1);
}

#[test]
fn a_directory_of_any_length_has_sockets() {
    let scratch = test_scratch();
    let directory = scratch.path().join("x".repeat(120)).join("y".repeat(120));
    let mountpoint = Path::new("/mnt/x");
    let (_socket, _) = serve(&directory, mountpoint);
    let client = Client::connect(&directory, mountpoint).expect("connects");
    let reply = client.ask(&Request::Status, SECONDS_5).expect("answers");
    assert!(matches!(reply, Reply::Status(status) if status.name == "test"));
}

#[test]
fn the_socket_is_private_and_nonsense_is_answered() {
    let scratch = test_scratch();
    let mountpoint = Path::new("/mnt/x");
    let (_socket, _) = serve(scratch.path(), mountpoint);
    let path = socket_path(scratch.path(), mountpoint);
    assert_eq!(
        path.metadata().expect("socket").permissions().mode() & 0o777,
        0o600
    );
    let client = Client::connect(scratch.path(), mountpoint).expect("connects");
    let mut stream = client.stream;
    stream
        .write_all(b"{\"command\":\"dance\"}\n")
        .expect("sent");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("reply");
    assert!(line.contains("\"reply\":\"error\""), "{line}");
}

#[test]
fn a_new_daemon_takes_the_name_over_and_the_old_one_leaves_it() {
    let scratch = test_scratch();
    let mountpoint = Path::new("/mnt/x");
    let (old, _) = serve(scratch.path(), mountpoint);
    let (new, _) = serve(scratch.path(), mountpoint);
    drop(old);
    assert!(socket_path(scratch.path(), mountpoint).exists());
    drop(new);
    let gone = Client::connect(scratch.path(), mountpoint).unwrap_err();
    assert_eq!(gone.kind(), io::ErrorKind::NotFound);
}

#[test]
fn paths_are_made_relative_without_touching_the_mount() {
    let mountpoint = Path::new("/mnt/x");
    let relative = |path: &str| relative_to_mount(mountpoint, OsStr::new(path));
    assert_eq!(relative("/mnt/x/a/b"), Some(PathBuf::from("a/b")));
    assert_eq!(relative("./a"), Some(PathBuf::from("a")));
    assert_eq!(relative("/mnt/x"), Some(PathBuf::new()));
    assert_eq!(relative("/mnt/other/a"), None);
    assert_eq!(relative("a/../../b"), None);
}

#[test]
fn sockets_of_daemons_that_were_killed_go_and_others_stay() {
    let scratch = test_scratch();
    let directory = scratch.path();
    let (living, _) = serve(directory, Path::new("/mnt/living"));
    let dead = socket_path(directory, Path::new("/mnt/dead"));
    drop(UnixListener::bind(Sockets::open(directory).unwrap().address(&dead)).unwrap());
    let other = directory.join("other.sock");
    std::fs::write(&other, "no socket").unwrap();
    let (new, _) = serve(directory, Path::new("/mnt/new"));
    assert!(!dead.exists());
    assert!(other.exists());
    for mountpoint in ["/mnt/living", "/mnt/new"] {
        Client::connect(directory, Path::new(mountpoint)).unwrap();
    }
    drop((living, new));
    let left = std::fs::read_dir(directory).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["other.sock"]);
}

#[test]
fn who_holds_connections_and_asks_nothing_is_in_nobodys_way() {
    let scratch = test_scratch();
    let mountpoint = Path::new("/mnt/x");
    let (_socket, _) = serve(scratch.path(), mountpoint);
    let connect = || Client::connect(scratch.path(), mountpoint).expect("connects");
    let held: Vec<Client> = (0..200).map(|_| connect()).collect();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                let reply = connect().ask(&Request::Status, 4 * SECONDS_5);
                assert!(matches!(reply, Ok(Reply::Status(_))), "{reply:?}");
            });
        }
    });
    // Those who hold them would be let go of one by one in the time of their lines.
    assert!(begin.elapsed() < 3 * SECONDS_5, "{:?}", begin.elapsed());
    drop(held);
}
