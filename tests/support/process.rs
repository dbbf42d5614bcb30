//! Child processes. They are started from one thread that lives as long as the test process, because
//! PR_SET_PDEATHSIG follows the thread that forked, not the process.

use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::unistd::Pid;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{LazyLock, Mutex, mpsc};
use std::time::{Duration, Instant};

type Order = (Command, mpsc::Sender<io::Result<Child>>);

static SPAWNER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
    let (orders, receiver) = mpsc::channel::<Order>();
    std::thread::spawn(move || {
        for (mut command, reply) in receiver {
            let _ = reply.send(command.spawn());
        }
    });
    Mutex::new(orders)
});

/// Starts a child that is killed when this process ends, however it ends.
pub fn spawn(mut command: Command) -> io::Result<Child> {
    // SAFETY: prctl(2) and sigaction(2) are async-signal-safe, SIG_DFL is no code of ours, and nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            // A shell's background jobs ignore it, and so would all that they start.
            signal(Signal::SIGINT, SigHandler::SigDfl)?;
            Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)
        });
    }
    let (reply, outcome) = mpsc::channel();
    let orders = SPAWNER.lock().expect("no panic holds it");
    orders.send((command, reply)).expect("the spawner lives");
    drop(orders);
    outcome.recv().expect("the spawner answers")
}

/// Runs a command to its end, at most for `limit`; then it is killed and the test fails.
pub fn run(mut command: Command, limit: Duration) -> Output {
    let shown = format!("{command:?}");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = spawn(command).unwrap_or_else(|error| panic!("{shown}: {error}"));
    let pid = child.id() as i32;
    let (done, outcome) = mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    match outcome.recv_timeout(limit) {
        Ok(output) => output.unwrap_or_else(|error| panic!("{shown}: {error}")),
        Err(_) => {
            kill_now(pid);
            panic!("{shown}: not done within {limit:?}");
        }
    }
}

/// Waits for a child; `None` when it still runs after `limit`.
pub fn wait_for(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// SIGKILL; a process that is gone is fine.
pub fn kill_now(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

pub fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap_or_else(|error| panic!("{signal} to {pid}: {error}"));
}

/// Stops a process and waits until all its threads have stopped.
pub fn stop(pid: i32) {
    send(pid, Signal::SIGSTOP);
    super::wait_until(Duration::from_secs(5), "stopping", || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
        threads.flatten().all(|thread| {
            std::fs::read_to_string(thread.path().join("stat"))
                .is_ok_and(|stat| state_in(&stat) == Some('T'))
        })
    });
}

pub fn resume(pid: i32) {
    send(pid, Signal::SIGCONT);
}

/// The state letter of proc_pid_stat(5); `None` when the process is gone.
pub fn state(pid: i32) -> Option<char> {
    state_in(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The state letter in proc_pid_stat(5); the name before it may hold anything.
fn state_in(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}
