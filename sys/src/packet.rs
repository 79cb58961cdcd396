//! Datagrams over local sockets: the SOCK_SEQPACKET pair of the init protocol, and
//! datagrams whose sender the kernel vouches for. Nothing here blocks.

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg};
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType},
};
use std::{
    io::{self, IoSliceMut},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

/// What one attempt to receive gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A whole datagram.
    Packet(Vec<u8>),
    /// A datagram larger than the limit; it is gone.
    TooLarge,
    /// Nothing is there now.
    Empty,
    /// The other end is closed.
    Closed,
}

/// What one attempt to send did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way.
    Whole,
    /// The other end does not read fast enough; nothing was sent.
    Full,
    /// The other end is closed.
    Closed,
}

/// A datagram and the process that sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The sender's process id, as the kernel says.
    pub pid: i32,
    /// The sender's user id, as the kernel says.
    pub uid: u32,
}

/// A connected pair of SOCK_SEQPACKET sockets, non-blocking and close-on-exec.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?)
}

/// Sends one datagram, or none of it.
pub fn send(fd: impl AsFd, bytes: &[u8]) -> io::Result<Sent> {
    loop {
        match rustix::net::send(&fd, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(_) => return Ok(Sent::Whole),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN | Errno::NOBUFS) => return Ok(Sent::Full),
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Ok(Sent::Closed),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Receives one datagram of at most `limit` bytes. An empty one, which the protocols
/// here do not know, cannot be told from the end.
pub fn receive(fd: impl AsFd, limit: usize) -> io::Result<Received> {
    let mut bytes = vec![0; limit];
    loop {
        match rustix::net::recv(&fd, &mut bytes[..], RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok((_, 0)) => return Ok(Received::Closed),
            Ok((_, length)) if length > limit => return Ok(Received::TooLarge),
            Ok((_, length)) => {
                bytes.truncate(length);
                return Ok(Received::Packet(bytes));
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(Received::Empty),
            Err(Errno::CONNRESET) => return Ok(Received::Closed),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// A datagram socket bound to the path, which must not exist, whose senders the kernel
/// names; non-blocking and close-on-exec.
pub fn bind_vouched(path: &Path) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    // Before the bind: no datagram may arrive without its sender's name.
    rustix::net::sockopt::set_socket_passcred(&socket, true)?;
    rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Receives one datagram and its sender; nothing if none is there. One that is larger
/// than `limit`, lacks its sender's name or brings descriptors is dropped, and these
/// are closed: there is no room for them.
pub fn receive_vouched(fd: impl AsFd, limit: usize) -> io::Result<Option<Vouched>> {
    let mut bytes = vec![0; limit];
    loop {
        let mut control = nix::cmsg_space!(UnixCredentials);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let received = recvmsg::<()>(
            fd.as_fd().as_raw_fd(),
            &mut parts,
            Some(&mut control),
            flags,
        );
        let message = match received {
            Ok(message) => message,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(nix::errno::Errno::EAGAIN) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let sender = message.cmsgs().ok().and_then(|mut all| {
            all.find_map(|one| match one {
                ControlMessageOwned::ScmCredentials(sender) => Some(sender),
                _ => None,
            })
        });
        let (length, truncated) = (message.bytes, message.flags.contains(MsgFlags::MSG_TRUNC));
        let Some(sender) = sender.filter(|_| !truncated) else {
            continue;
        };
        bytes.truncate(length);
        return Ok(Some(Vouched {
            bytes,
            pid: sender.pid(),
            uid: sender.uid(),
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_arrives_whole_or_is_known_to_be_too_large() {
        let (a, b) = pair().unwrap();
        assert_eq!(receive(&b, 8).unwrap(), Received::Empty);
        assert_eq!(send(&a, b"12345678").unwrap(), Sent::Whole);
        assert_eq!(send(&a, b"123456789").unwrap(), Sent::Whole);
        assert_eq!(
            receive(&b, 8).unwrap(),
            Received::Packet(b"12345678".to_vec())
        );
        assert_eq!(receive(&b, 8).unwrap(), Received::TooLarge);
        drop(a);
        assert_eq!(receive(&b, 8).unwrap(), Received::Closed);
        assert_eq!(send(&b, b"x").unwrap(), Sent::Closed);
    }

    #[test]
    fn a_reader_that_sleeps_fills_the_queue() {
        let (a, _b) = pair().unwrap();
        let sent = (0..10_000).find(|_| send(&a, &[7; 1024]).unwrap() == Sent::Full);
        assert!(sent.is_some());
    }

    #[test]
    fn the_kernel_names_the_sender_and_descriptors_do_not_arrive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = bind_vouched(&path).unwrap();
        assert_eq!(receive_vouched(&socket, 64).unwrap(), None);
        let client = std::os::unix::net::UnixDatagram::unbound().unwrap();
        client.send_to(&[0; 65], &path).unwrap();
        client.send_to(b"READY=1", &path).unwrap();
        let got = receive_vouched(&socket, 64).unwrap().unwrap();
        assert_eq!(got.bytes, b"READY=1");
        assert_eq!(got.pid, std::process::id().cast_signed());
        assert_eq!(got.uid, rustix::process::getuid().as_raw());

        let passed = dir.path().join("passed");
        let file = std::fs::File::create(&passed).unwrap();
        client.connect(&path).unwrap();
        let fds = [file.as_raw_fd()];
        let rights = [nix::sys::socket::ControlMessage::ScmRights(&fds)];
        let parts = [io::IoSlice::new(b"FDSTORE=1")];
        nix::sys::socket::sendmsg::<()>(
            client.as_raw_fd(),
            &parts,
            &rights,
            MsgFlags::empty(),
            None,
        )
        .unwrap();
        assert_eq!(receive_vouched(&socket, 64).unwrap(), None);
        let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let same = open.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == passed));
        assert_eq!(same.count(), 1);
    }
}
