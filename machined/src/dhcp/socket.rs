//! The client's sockets: one below IP while it has no address it may use, and one on its
//! address to reach the server of its lease alone.

use super::frame;
use keelson_sys::ethernet;
use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, sockopt::set_socket_reuseaddr,
};
use std::{
    ffi::OsString,
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
};
use tokio::{io::Interest, net::UdpSocket};

/// Everybody on an Ethernet link.
const EVERYBODY: [u8; 6] = [0xff; 6];

/// A socket below IP, for DHCP's packets on one link.
#[derive(Debug)]
pub(crate) struct Raw {
    /// Not a UDP socket at all: the type is there to be told of readiness by the runtime,
    /// and the socket is only ever read and written through [`ethernet`].
    socket: UdpSocket,
    link: u32,
}

impl Raw {
    /// Opens it; within a runtime.
    pub(crate) fn open(link: u32) -> io::Result<Raw> {
        let socket = std::net::UdpSocket::from(ethernet::open(link)?);
        Ok(Raw {
            socket: UdpSocket::from_std(socket)?,
            link,
        })
    }

    /// Sends a message to everybody on the link.
    pub(crate) fn broadcast(&self, message: &[u8]) -> io::Result<()> {
        ethernet::send(
            &self.socket,
            self.link,
            EVERYBODY,
            &frame::broadcast(message),
        )
    }

    /// Waits for a message to the client's port. It may be cancelled.
    pub(crate) async fn receive(&self) -> io::Result<Vec<u8>> {
        loop {
            let read = || ethernet::receive(&self.socket)?.ok_or(io::ErrorKind::WouldBlock.into());
            let packet = self.socket.async_io(Interest::READABLE, read).await?;
            if let Some(message) = frame::parse(&packet.bytes, packet.unsummed) {
                return Ok(message.to_vec());
            }
        }
    }
}

/// A socket on the machine's own address. Nothing is read from it, [`Raw`] sees what
/// comes; that it is there keeps the kernel from telling the server that nobody listens.
#[derive(Debug)]
pub(crate) struct Unicast {
    socket: OwnedFd,
    from: Ipv4Addr,
}

impl Unicast {
    /// Opens it for an address of this link.
    pub(crate) fn open(link: &str, from: Ipv4Addr) -> io::Result<Unicast> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
        set_socket_reuseaddr(&socket, true)?;
        setsockopt(&socket, BindToDevice, &OsString::from(link))?;
        rustix::net::bind(&socket, &SocketAddrV4::new(from, frame::CLIENT))?;
        Ok(Unicast { socket, from })
    }

    /// The address that it sends from.
    pub(crate) fn from(&self) -> Ipv4Addr {
        self.from
    }

    /// Sends a message to a server.
    pub(crate) fn send(&self, to: Ipv4Addr, message: &[u8]) -> io::Result<()> {
        let address = SocketAddrV4::new(to, frame::SERVER);
        rustix::net::sendto(&self.socket, message, SendFlags::DONTWAIT, &address)?;
        Ok(())
    }
}
