//! The client's sockets: one on its UDP port, and one to ask the routers of the link.

use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, ipproto,
    sockopt::{set_ipv6_multicast_hops, set_ipv6_v6only},
};
use std::{
    ffi::OsString,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddrV6},
    os::fd::OwnedFd,
};
use tokio::net::UdpSocket;

/// RFC 8415, section 7.2.
const CLIENT: u16 = 546;
const SERVER: u16 = 547;
/// All servers and relays of the link (RFC 8415, section 7.1).
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// All routers of the link (RFC 4291, section 2.7.1).
const ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// More than any packet of an Ethernet link that is not sent in pieces.
const LARGEST: usize = 2048;

/// The client's port on one link.
#[derive(Debug)]
pub(super) struct Port {
    socket: UdpSocket,
    link: u32,
}

fn open(name: &str, kind: SocketType, protocol: rustix::net::Protocol) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET6, kind, flags, Some(protocol))?;
    setsockopt(&socket, BindToDevice, &OsString::from(name))?;
    Ok(socket)
}

impl Port {
    /// Opens it; within a runtime.
    pub(super) fn open(link: u32, name: &str) -> io::Result<Port> {
        let socket = open(name, SocketType::DGRAM, ipproto::UDP)?;
        set_ipv6_v6only(&socket, true)?;
        let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, CLIENT, 0, 0);
        rustix::net::bind(&socket, &any)?;
        let socket = UdpSocket::from_std(std::net::UdpSocket::from(socket))?;
        Ok(Port { socket, link })
    }

    /// Sends a message to all servers and relays of the link. It comes from the link-local
    /// address: the kernel sends from an address of the same scope (RFC 6724, rule 2).
    pub(super) fn send(&self, message: &[u8]) -> io::Result<()> {
        let to = SocketAddrV6::new(SERVERS, SERVER, 0, self.link);
        rustix::net::sendto(&self.socket, message, SendFlags::DONTWAIT, &to)?;
        Ok(())
    }

    /// Waits for a message, and says where it came from. It may be cancelled.
    pub(super) async fn receive(&self) -> io::Result<(Vec<u8>, Ipv6Addr)> {
        let mut bytes = vec![0; LARGEST];
        let (length, from) = self.socket.recv_from(&mut bytes).await?;
        bytes.truncate(length);
        let from = match from.ip() {
            IpAddr::V6(from) => from,
            IpAddr::V4(from) => from.to_ipv6_mapped(),
        };
        Ok((bytes, from))
    }
}

/// Asks the routers of a link to say that they are there (RFC 4861, section 4.1), once. The
/// kernel does so when a link comes up, but not when it is told later to hear routers on a
/// machine that forwards packets. What they say is the kernel's to hear.
pub(super) fn solicit_routers(link: u32, name: &str) -> io::Result<()> {
    let socket = open(name, SocketType::RAW, ipproto::ICMPV6)?;
    // Section 6.1.1: what came through a router is not heard.
    set_ipv6_multicast_hops(&socket, 255)?;
    let to = SocketAddrV6::new(ROUTERS, 0, 0, link);
    // Type 133; the kernel fills in the checksum (RFC 3542, section 3.1).
    let message = [133, 0, 0, 0, 0, 0, 0, 0];
    rustix::net::sendto(&socket, &message, SendFlags::DONTWAIT, &to)?;
    Ok(())
}
