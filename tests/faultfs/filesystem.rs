//! The FUSE verbs over the backing directory. Locks are the kernel's own, as nothing here asks for
//! them; entries carry the node id as inode number and attributes that are old at once, so that every
//! stat asks for the number to show.

use crate::backing::{self, Changes};
use crate::protocol::Operation;
use crate::server::{Server, Subject};
use fuser::{
    AccessFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use nfs_cachefs::sys::path::check_access;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const MAX_WRITE_BYTES: u32 = 1 << 20;
/// Hung background reads must not keep others from arriving.
const MAX_BACKGROUND_REQUESTS: u16 = 4096;

pub struct FaultFilesystem(pub Arc<Server>);

impl FaultFilesystem {
    fn open_flags(&self) -> FopenFlags {
        if self.0.settings.direct_io {
            FopenFlags::FOPEN_DIRECT_IO
        } else {
            FopenFlags::empty()
        }
    }

    /// Serves a call that ends in an entry: `make` brings the name about, then it is looked up.
    fn serve_entry(
        &self,
        operation: Operation,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
        make: impl FnOnce(&Server, &OsStr) -> io::Result<()> + Send + 'static,
    ) {
        let ttl = self.0.settings.ttl;
        let name = name.to_owned();
        self.0.serve(
            operation,
            Subject::child(parent, &name).by(request),
            reply,
            move |server, _| {
                make(server, &name)?;
                server.nodes.look_up(parent, &name)
            },
            move |reply, attributes| {
                reply.entry_with_ttls(&Duration::ZERO, &ttl, &attributes, Generation(0));
            },
        );
    }

    fn serve_empty(
        &self,
        operation: Operation,
        subject: Subject,
        reply: ReplyEmpty,
        work: impl FnOnce(&Server) -> io::Result<()> + Send + 'static,
    ) {
        self.0.serve(
            operation,
            subject,
            reply,
            move |server, _| work(server),
            |reply, ()| reply.ok(),
        );
    }
}

impl Filesystem for FaultFilesystem {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_AUTO_INVAL_DATA;
        for flag in wanted.iter() {
            config
                .add_capabilities(flag)
                .map_err(|missing| io::Error::other(format!("the kernel lacks {missing:?}")))?;
        }
        let refused = |nearest| io::Error::other(format!("refused, nearest is {nearest}"));
        config.set_max_write(MAX_WRITE_BYTES).map_err(refused)?;
        config
            .set_max_background(MAX_BACKGROUND_REQUESTS)
            .map_err(|nearest| io::Error::other(format!("refused, nearest is {nearest}")))?;
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.serve_entry(Operation::Lookup, request, parent, name, reply, |_, _| {
            Ok(())
        });
    }

    fn forget(&self, _request: &Request, node: INodeNo, count: u64) {
        self.0.nodes.forget(node, count);
    }

    fn getattr(&self, _request: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let ttl = self.0.settings.ttl;
        self.0.serve(
            Operation::Getattr,
            Subject::node(node),
            reply,
            move |server, _| server.nodes.attributes(node),
            move |reply, attributes| reply.attr(&ttl, &attributes),
        );
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let ttl = self.0.settings.ttl;
        let changes = Changes {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        };
        self.0.serve(
            Operation::Setattr,
            Subject::node(node).by(request),
            reply,
            move |server, _| {
                let open = handle.and_then(|handle| server.handles.file(handle).ok());
                let shift_ms = server.nodes.time_shift_ms();
                changes.apply(
                    &*server.nodes.get(node)?,
                    open.as_ref().map(|open| &open.file),
                    shift_ms,
                )?;
                server.nodes.attributes(node)
            },
            move |reply, attributes| reply.attr(&ttl, &attributes),
        );
    }

    fn readlink(&self, _request: &Request, node: INodeNo, reply: ReplyData) {
        self.0.serve(
            Operation::Readlink,
            Subject::node(node),
            reply,
            move |server, _| backing::read_link(&*server.nodes.get(node)?),
            |reply, target| reply.data(&target),
        );
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let owner = (request.uid(), request.gid());
        self.serve_entry(
            Operation::Mknod,
            request,
            parent,
            name,
            reply,
            move |server, name| {
                let parent = server.nodes.get(parent)?;
                backing::make_node(&parent, name, mode & !umask, device)?;
                server.give_to(&parent, name, owner)
            },
        );
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let owner = (request.uid(), request.gid());
        self.serve_entry(
            Operation::Mkdir,
            request,
            parent,
            name,
            reply,
            move |server, name| {
                let parent = server.nodes.get(parent)?;
                backing::make_directory(&parent, name, mode & !umask)?;
                server.give_to(&parent, name, owner)
            },
        );
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let subject = Subject::child(parent, name).by(request);
        let name = name.to_owned();
        self.serve_empty(Operation::Unlink, subject, reply, move |server| {
            backing::remove(&*server.nodes.get(parent)?, &name, false)
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let subject = Subject::child(parent, name).by(request);
        let name = name.to_owned();
        self.serve_empty(Operation::Rmdir, subject, reply, move |server| {
            backing::remove(&*server.nodes.get(parent)?, &name, true)
        });
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let owner = (request.uid(), request.gid());
        let target = target.to_owned();
        self.serve_entry(
            Operation::Symlink,
            request,
            parent,
            name,
            reply,
            move |server, name| {
                let parent = server.nodes.get(parent)?;
                rustix::fs::symlinkat(&target, &parent.descriptor, name)?;
                server.give_to(&parent, name, owner)
            },
        );
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let subject = Subject::child(parent, name).by(request);
        let (name, new_name) = (name.to_owned(), new_name.to_owned());
        self.serve_empty(Operation::Rename, subject, reply, move |server| {
            let (from, to) = (server.nodes.get(parent)?, server.nodes.get(new_parent)?);
            let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
            rustix::fs::renameat_with(&from.descriptor, &name, &to.descriptor, &new_name, flags)?;
            Ok(())
        });
    }

    fn link(
        &self,
        request: &Request,
        node: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        self.serve_entry(
            Operation::Link,
            request,
            new_parent,
            new_name,
            reply,
            move |server, name| {
                backing::link(
                    &*server.nodes.get(node)?,
                    &*server.nodes.get(new_parent)?,
                    name,
                )
            },
        );
    }

    fn open(&self, request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let open_flags = self.open_flags();
        self.0.serve(
            Operation::Open,
            Subject::node(node).by(request),
            reply,
            move |server, _| {
                let file = backing::reopen(&*server.nodes.get(node)?, flags.0)?;
                Ok(server
                    .handles
                    .add_file(file, server.nodes.path_of(node, None)))
            },
            move |reply, handle| reply.opened(FileHandle(handle), open_flags),
        );
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (ttl, open_flags) = (Duration::ZERO, self.open_flags());
        let owner = (request.uid(), request.gid());
        let name = name.to_owned();
        self.0.serve(
            Operation::Create,
            Subject::child(parent, &name).by(request),
            reply,
            move |server, _| {
                let directory = server.nodes.get(parent)?;
                let file = backing::create(&directory, &name, mode & !umask, flags)?;
                server.give_to(&directory, &name, owner)?;
                let attributes = server.nodes.look_up(parent, &name)?;
                let path = server.nodes.path_of(parent, Some(&name));
                Ok((attributes, server.handles.add_file(file, path)))
            },
            move |reply, (attributes, handle)| {
                reply.created(
                    &ttl,
                    &attributes,
                    Generation(0),
                    FileHandle(handle),
                    open_flags,
                );
            },
        );
    }

    fn read(
        &self,
        _request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.0.serve(
            Operation::Read,
            Subject::node(node).asking(size),
            reply,
            move |server, call| {
                let open = server.handles.file(handle)?;
                let mut data = vec![0; call.effects.cut(size as usize)];
                let length_bytes = backing::read_fully(&open.file, &mut data, offset)?;
                data.truncate(length_bytes);
                call.effects.spoil(offset, &mut data);
                call.data_bytes = data.len() as u64;
                server.counters.read(&open.path, data.len());
                Ok(data)
            },
            |reply, data| reply.data(&data),
        );
    }

    fn write(
        &self,
        _request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = data.to_vec();
        self.0.serve(
            Operation::Write,
            Subject::node(node),
            reply,
            move |server, call| {
                let open = server.handles.file(handle)?;
                let data = &data[..call.effects.cut(data.len())];
                open.file.write_all_at(data, offset)?;
                call.data_bytes = data.len() as u64;
                server.counters.written(data.len());
                Ok(data.len() as u32)
            },
            |reply, written_bytes| reply.written(written_bytes),
        );
    }

    fn flush(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.serve_empty(Operation::Flush, Subject::node(node), reply, |_| Ok(()));
    }

    fn release(
        &self,
        _request: &Request,
        node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.serve_empty(
            Operation::Release,
            Subject::node(node),
            reply,
            move |server| {
                server.handles.remove(handle);
                Ok(())
            },
        );
    }

    fn fsync(
        &self,
        _request: &Request,
        node: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.serve_empty(
            Operation::Fsync,
            Subject::node(node),
            reply,
            move |server| {
                let open = server.handles.file(handle)?;
                if data_only {
                    open.file.sync_data()
                } else {
                    open.file.sync_all()
                }
            },
        );
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.serve_empty(
            Operation::Fsyncdir,
            Subject::node(node),
            reply,
            move |server| {
                let directory = server.nodes.get(node)?;
                backing::reopen(&directory, libc::O_RDONLY)?.sync_all()
            },
        );
    }

    fn opendir(&self, request: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.0.serve(
            Operation::Opendir,
            Subject::node(node).by(request),
            reply,
            move |server, _| {
                let directory = server.nodes.get(node)?;
                if server.settings.squash {
                    backing::reopen(&directory, libc::O_RDONLY)?;
                }
                Ok(server.handles.add_directory())
            },
            |reply, handle| reply.opened(FileHandle(handle), FopenFlags::empty()),
        );
    }

    fn readdir(
        &self,
        _request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.0.serve(
            Operation::Readdir,
            Subject::node(node),
            reply,
            move |server, _| {
                let directory = server.handles.directory(handle)?;
                let node = server.nodes.get(node)?;
                if offset == 0 {
                    directory.lock().names = backing::list(&node, &server.nodes)?;
                }
                Ok(directory)
            },
            move |mut reply, directory| {
                let directory = directory.lock();
                for (index, entry) in directory.names.iter().enumerate().skip(offset as usize) {
                    if reply.add(
                        INodeNo(entry.inode),
                        index as u64 + 1,
                        entry.kind,
                        &entry.name,
                    ) {
                        break;
                    }
                }
                reply.ok();
            },
        );
    }

    fn releasedir(
        &self,
        _request: &Request,
        node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.serve_empty(
            Operation::Releasedir,
            Subject::node(node),
            reply,
            move |server| {
                server.handles.remove(handle);
                Ok(())
            },
        );
    }

    fn statfs(&self, _request: &Request, node: INodeNo, reply: ReplyStatfs) {
        self.0.serve(
            Operation::Statfs,
            Subject::node(node),
            reply,
            move |server, _| Ok(rustix::fs::fstatfs(&server.nodes.get(node)?.descriptor)?),
            |reply, space| {
                reply.statfs(
                    space.f_blocks,
                    space.f_bfree,
                    space.f_bavail,
                    space.f_files,
                    space.f_ffree,
                    space.f_bsize as u32,
                    space.f_namelen as u32,
                    space.f_frsize as u32,
                );
            },
        );
    }

    /// Comes only where the kernel does not check by itself.
    fn access(&self, request: &Request, node: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let subject = Subject::node(node).by(request);
        self.serve_empty(Operation::Access, subject, reply, move |server| {
            let node = server.nodes.get(node)?;
            check_access(node.descriptor.as_fd(), mask.bits())
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value) = (name.to_owned(), value.to_vec());
        self.serve_empty(
            Operation::Setxattr,
            Subject::node(node).by(request),
            reply,
            move |server| {
                let flags = rustix::fs::XattrFlags::from_bits_retain(flags as u32);
                rustix::fs::setxattr(server.nodes.get(node)?.proc_path(), &name, &value, flags)?;
                Ok(())
            },
        );
    }

    fn getxattr(
        &self,
        request: &Request,
        node: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let name = CString::new(name.as_bytes()).unwrap_or_default();
        self.0.serve(
            Operation::Getxattr,
            Subject::node(node).by(request),
            reply,
            move |server, _| backing::get_xattr(&*server.nodes.get(node)?, &name),
            move |reply, value| answer_xattr(reply, &value, size),
        );
    }

    fn listxattr(&self, request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        self.0.serve(
            Operation::Listxattr,
            Subject::node(node).by(request),
            reply,
            move |server, _| backing::list_xattr(&*server.nodes.get(node)?),
            move |reply, names| answer_xattr(reply, &names, size),
        );
    }

    fn removexattr(&self, request: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.serve_empty(
            Operation::Removexattr,
            Subject::node(node).by(request),
            reply,
            move |server| {
                rustix::fs::removexattr(server.nodes.get(node)?.proc_path(), &name)?;
                Ok(())
            },
        );
    }

    fn fallocate(
        &self,
        _request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        length_bytes: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.serve_empty(
            Operation::Fallocate,
            Subject::node(node),
            reply,
            move |server| {
                let open = server.handles.file(handle)?;
                let mode = rustix::fs::FallocateFlags::from_bits_retain(mode as u32);
                rustix::fs::fallocate(&open.file, mode, offset, length_bytes)?;
                Ok(())
            },
        );
    }

    fn lseek(
        &self,
        _request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.0.serve(
            Operation::Lseek,
            Subject::node(node),
            reply,
            move |server, _| {
                backing::seek(&server.handles.file(handle)?.file, offset as u64, whence)
            },
            |reply, found| reply.offset(found as i64),
        );
    }
}

fn answer_xattr(reply: ReplyXattr, bytes: &[u8], room_bytes: u32) {
    if room_bytes == 0 {
        reply.size(bytes.len() as u32);
    } else if bytes.len() > room_bytes as usize {
        reply.error(Errno::ERANGE);
    } else {
        reply.data(bytes);
    }
}
