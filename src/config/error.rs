//! What is wrong with an option list: each message names the option and says what to write instead.

use std::path::PathBuf;

/// An option list, or a settings file, that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("unknown option '{name}'{}", hint(.name, .nearest))]
    Unknown {
        name: String,
        nearest: Option<String>,
    },
    #[error(
        "option '{name}' is not yet supported: {what} comes with a later version; leave it out"
    )]
    NotYet { name: String, what: &'static str },
    #[error("option '{name}' needs a value: {name}={expected}")]
    MissingValue { name: String, expected: String },
    #[error("option '{name}' takes no value, but '{value}' was given")]
    UnwantedValue { name: String, value: String },
    #[error("option '{name}={value}': expected {expected}")]
    BadValue {
        name: String,
        value: String,
        expected: String,
    },
    #[error("option list '{list}': a quotation mark is opened and never closed")]
    OpenQuote { list: String },
    #[error("{}{}: {what}", .path.display(), .line.map_or_else(String::new, |line| format!(":{line}")))]
    File {
        path: PathBuf,
        line: Option<usize>,
        what: String,
    },
    #[error(
        "write_mode=back needs a place for what the backend does not have yet; name a directory on a local disk with journal_dir"
    )]
    NoJournalDirectory,
    #[error("{option} is for write_mode=back; add that, or leave {option} out")]
    NoJournal { option: &'static str },
    #[error("options contradict each other: {0}")]
    Contradiction(String),
}

/// Options of nfs(5) that are no options here.
const NFS_WORDS: &[&str] = &[
    "bg",
    "clientaddr",
    "fg",
    "hard",
    "intr",
    "local_lock",
    "lock",
    "minorversion",
    "mountaddr",
    "mounthost",
    "mountport",
    "mountproto",
    "mountvers",
    "namlen",
    "nconnect",
    "nfsvers",
    "nointr",
    "nolock",
    "nordirplus",
    "noresvport",
    "port",
    "proto",
    "rdirplus",
    "rdma",
    "resvport",
    "retrans",
    "retry",
    "rsize",
    "sec",
    "sharecache",
    "soft",
    "softerr",
    "tcp",
    "timeo",
    "trunkdiscovery",
    "udp",
    "vers",
    "wsize",
    "xprtsec",
];

fn hint(name: &str, nearest: &Option<String>) -> String {
    if NFS_WORDS.contains(&name) {
        return "; it is an option of nfs(5): give it to the mount that nfs_backend names"
            .to_owned();
    }
    match nearest {
        Some(name) => format!("; did you mean '{name}'?"),
        None => "; `nfs-cachefs options` lists all of them".to_owned(),
    }
}
