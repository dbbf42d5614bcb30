//! The way of every call: counted, judged by the rules, done on the pool, answered when the simulated
//! network would deliver the reply.

use crate::backing;
use crate::counters::CounterBoard;
use crate::network::Link;
use crate::nodes::{Node, Nodes};
use crate::protocol::{Command, Operation, Reply};
use crate::rules::{Effects, Rules};
use crate::schedule::Scheduler;
use fuser::{Errno, INodeNo, Request};
use nfs_cachefs::sys::credentials::as_caller;
use nfs_cachefs::sys::process::groups_of;
use nfs_cachefs::types::{Caller, Credentials};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Settings that a mount keeps.
#[derive(Clone, Copy, Debug)]
pub struct MountSettings {
    /// Answer every open with FOPEN_DIRECT_IO.
    pub direct_io: bool,
    /// How long the kernel may believe names and attributes.
    pub ttl: Duration,
    /// Who asks decides, not the kernel in front: as on an export with root_squash.
    pub squash: bool,
}

pub struct Server {
    pub settings: MountSettings,
    pub nodes: Nodes,
    pub handles: Handles,
    pub counters: CounterBoard,
    rules: Rules,
    link: Link,
    scheduler: Scheduler,
}

/// What a call is about, for the rules.
pub struct Subject {
    node: INodeNo,
    child: Option<OsString>,
    caller: Option<Caller>,
    asked_bytes: u64,
}

impl Subject {
    pub fn node(node: INodeNo) -> Self {
        Self {
            node,
            child: None,
            caller: None,
            asked_bytes: 0,
        }
    }

    pub fn child(parent: INodeNo, name: &OsStr) -> Self {
        Self {
            node: parent,
            child: Some(name.to_owned()),
            caller: None,
            asked_bytes: 0,
        }
    }

    /// A read of so many bytes.
    pub fn asking(mut self, bytes: u32) -> Self {
        self.asked_bytes = bytes.into();
        self
    }

    /// Done by whoever sent the request, where that matters; else by the server, as what is done by an open
    /// descriptor.
    pub fn by(mut self, request: &Request) -> Self {
        self.caller = Some(Caller {
            uid: request.uid(),
            gid: request.gid(),
            pid: request.pid(),
        });
        self
    }
}

/// One call while it is worked on.
pub struct Call {
    pub effects: Effects,
    /// File data that goes over the link.
    pub data_bytes: u64,
}

/// Every reply object can carry an errno.
pub trait Refusable: Send + 'static {
    fn refuse(self, errno: Errno);
}

macro_rules! refusable {
    ($($reply:ident)*) => {
        $(impl Refusable for fuser::$reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}

refusable!(ReplyAttr ReplyCreate ReplyData ReplyDirectory ReplyEmpty ReplyEntry ReplyLseek ReplyOpen
    ReplyStatfs ReplyWrite ReplyXattr);

impl Server {
    pub fn new(root: PathBuf, settings: MountSettings) -> io::Result<Self> {
        Ok(Self {
            settings,
            nodes: Nodes::new(root)?,
            handles: Handles::default(),
            counters: CounterBoard::default(),
            rules: Rules::default(),
            link: Link::default(),
            scheduler: Scheduler::start()?,
        })
    }

    /// Never blocks; `work` runs on the pool, `answer` where the reply falls due.
    pub fn serve<R, T>(
        self: &Arc<Self>,
        operation: Operation,
        subject: Subject,
        reply: R,
        work: impl FnOnce(&Server, &mut Call) -> io::Result<T> + Send + 'static,
        answer: impl FnOnce(R, T) + Send + 'static,
    ) where
        R: Refusable,
        T: Send + 'static,
    {
        let arrived = Instant::now();
        let asked_bytes = subject.asked_bytes;
        self.counters.begin(operation, asked_bytes);
        let effects = self.rules.decide(operation, || {
            self.nodes.path_of(subject.node, subject.child.as_deref())
        });
        // Whoever waits for the answer keeps its groups until then.
        let caller = subject
            .caller
            .filter(|_| self.settings.squash)
            .map(squashed);
        let server = self.clone();
        let job = Box::new(move || {
            let mut call = Call {
                effects,
                data_bytes: 0,
            };
            // A call that waited for a rule begins its way over the network only now.
            let waited = effects.hang_on_rule.is_some() || !effects.delay.is_zero();
            let called = if waited { Instant::now() } else { arrived };
            let result = match effects.errno {
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                None => match &caller {
                    Some(caller) => as_caller(caller, || work(&server, &mut call)),
                    None => work(&server, &mut call),
                },
            };
            let due = server.link.delivery(called, call.data_bytes);
            let replying = server.clone();
            let deliver = Box::new(move || {
                replying.counters.end(operation, asked_bytes);
                match result {
                    Ok(value) => answer(reply, value),
                    Err(error) => reply.refuse(Errno::from(error)),
                }
            });
            server.scheduler.reply_at(due, deliver);
        });
        if let Some(rule) = effects.hang_on_rule {
            self.rules.hang(rule, job);
        } else if !effects.delay.is_zero() {
            self.scheduler.at(arrived + effects.delay, job);
        } else {
            self.scheduler.now(job);
        }
    }

    /// Carries out one control command. Touches the backing directory for `SetInodes` only.
    pub fn control(&self, command: Command) -> Reply {
        match command {
            Command::Ping => Reply::Done,
            Command::AddRule { rule } => Reply::RuleAdded {
                id: self.rules.add(rule),
            },
            Command::RemoveRule { id } if self.rules.remove(id) => Reply::Done,
            Command::RemoveRule { id } => Reply::Failed {
                message: format!("there is no rule {id}"),
            },
            Command::ClearRules => {
                self.rules.clear();
                Reply::Done
            }
            Command::Release { id } => {
                let jobs = self.rules.take_hung(id);
                let calls = jobs.len();
                jobs.into_iter().for_each(|job| self.scheduler.now(job));
                Reply::Released { calls }
            }
            Command::SetNetwork { network } => {
                self.link.set(network);
                Reply::Done
            }
            Command::SetTimes { times } => {
                self.nodes.set_times(times);
                Reply::Done
            }
            Command::SetInodes { inodes } => match self.nodes.set_inodes(&inodes) {
                Ok(()) => Reply::Done,
                Err(message) => Reply::Failed { message },
            },
            Command::Counters => {
                let mut counters = self.counters.snapshot();
                counters.hung = self.rules.hung_calls();
                counters.rule_hits = self.rules.hits();
                Reply::Counters { counters }
            }
            Command::ResetCounters => {
                self.counters.reset();
                self.rules.reset_hits();
                Reply::Done
            }
        }
    }

    /// A new name belongs to who asked for it; who makes it with their own rights has it already.
    pub fn give_to(&self, parent: &Node, name: &OsStr, owner: (u32, u32)) -> io::Result<()> {
        match self.settings.squash {
            true => Ok(()),
            false => backing::give_to(parent, name, owner),
        }
    }

    /// Gives up the calls that hang: each is answered EIO as its reply is dropped.
    pub fn give_up_hung_calls(&self) {
        drop(self.rules.take_hung(None));
    }
}

/// Root is nobody here; others are who they are, groups included.
fn squashed(caller: Caller) -> Credentials {
    const NOBODY: u32 = 65534;
    let groups = groups_of(caller.pid).unwrap_or_default();
    match caller.uid {
        0 => Credentials {
            uid: NOBODY,
            gid: NOBODY,
            groups: Vec::new().into(),
        },
        uid => Credentials {
            uid,
            gid: caller.gid,
            groups: groups.into(),
        },
    }
}

/// Open files and directories. Handle numbers are never used twice.
#[derive(Default)]
pub struct Handles {
    state: Mutex<HandleTable>,
}

#[derive(Default)]
struct HandleTable {
    last_id: u64,
    files: HashMap<u64, Arc<OpenFile>>,
    directories: HashMap<u64, Arc<Mutex<OpenDirectory>>>,
}

pub struct OpenFile {
    pub file: File,
    /// Below the root, as it was when opened.
    pub path: String,
}

/// The names as they were when reading began at offset 0.
#[derive(Default)]
pub struct OpenDirectory {
    pub names: Vec<ListedName>,
}

#[derive(Clone)]
pub struct ListedName {
    pub name: OsString,
    pub inode: u64,
    pub kind: fuser::FileType,
}

impl Handles {
    pub fn add_file(&self, file: File, path: String) -> u64 {
        let mut state = self.state.lock();
        state.last_id += 1;
        let id = state.last_id;
        state.files.insert(id, Arc::new(OpenFile { file, path }));
        id
    }

    pub fn add_directory(&self) -> u64 {
        let mut state = self.state.lock();
        state.last_id += 1;
        let id = state.last_id;
        state.directories.insert(id, Arc::default());
        id
    }

    pub fn file(&self, handle: fuser::FileHandle) -> io::Result<Arc<OpenFile>> {
        let found = self.state.lock().files.get(&handle.0).cloned();
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    pub fn directory(&self, handle: fuser::FileHandle) -> io::Result<Arc<Mutex<OpenDirectory>>> {
        let found = self.state.lock().directories.get(&handle.0).cloned();
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    pub fn remove(&self, handle: fuser::FileHandle) {
        let mut state = self.state.lock();
        state.files.remove(&handle.0);
        state.directories.remove(&handle.0);
    }
}
