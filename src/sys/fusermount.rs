//! fusermount3(1): the setuid program that mounts and unmounts FUSE filesystems for users who may not do it themselves. It hands
//! the open /dev/fuse over a socket whose number stands in _FUSE_COMMFD (libfuse, util/fusermount.c).

#![allow(unsafe_code)]

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use std::ffi::OsStr;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const PROGRAM: &str = "fusermount3";
/// The helper's end of the socket is its standard input.
const SOCKET_NUMBER: &str = "0";

/// Mounts at an absolute path with options as mount(8) has them; the open device, not served by anybody yet. The error
/// carries what the helper said.
pub fn mount(mountpoint: &Path, options: &OsStr) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    let child = Command::new(PROGRAM)
        .env("_FUSE_COMMFD", SOCKET_NUMBER)
        .arg("-o")
        .arg(options)
        .arg("--")
        .arg(mountpoint)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(named)?;
    let received = receive_descriptor(&ours);
    expect_success(child.wait_with_output()?)?;
    received?.ok_or_else(|| io::Error::other(format!("{PROGRAM} handed no device over")))
}

/// Unmounts what the user of this process mounted; `lazily` also where it is in use.
pub fn unmount(mountpoint: &Path, lazily: bool) -> io::Result<()> {
    let flags: &[&str] = if lazily { &["-u", "-z"] } else { &["-u"] };
    let output = Command::new(PROGRAM)
        .args(flags)
        .arg("--")
        .arg(mountpoint)
        .output()
        .map_err(named)?;
    expect_success(output)
}

fn named(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::other(format!("{PROGRAM} is not installed (package fuse3)"))
        }
        _ => error,
    }
}

fn expect_success(output: Output) -> io::Result<()> {
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        )),
    }
}

/// The descriptor that comes over a socket, if one does before the other end is closed.
fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
    let mut room = nix::cmsg_space!(RawFd);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut data, Some(&mut room), flags)?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = part
            && let Some(descriptor) = descriptors.first()
        {
            // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
            return Ok(Some(unsafe { OwnedFd::from_raw_fd(*descriptor) }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{ControlMessage, sendmsg};
    use std::io::{IoSlice, Read, Write};

    #[test]
    fn a_descriptor_comes_over_a_socket_or_none_does() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let rights = [writer.as_raw_fd()];
        let parts = [ControlMessage::ScmRights(&rights)];
        let data = [IoSlice::new(&[0])];
        sendmsg::<()>(theirs.as_raw_fd(), &data, &parts, MsgFlags::empty(), None).expect("sent");
        let received = receive_descriptor(&ours).expect("received");
        drop(writer);
        let mut file = std::fs::File::from(received.expect("one was sent"));
        file.write_all(b"x").expect("it is the pipe's");
        drop(file);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "x");
        drop(theirs);
        assert!(receive_descriptor(&ours).expect("closed").is_none());
    }
}
