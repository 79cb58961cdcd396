//! Sockets below IP, for a link that has no address yet: IPv4 packets in and out of one
//! Ethernet link (packet(7)). Only UDP to the DHCP client's port is let in. What the
//! packets say is not looked at here.

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::{
    ffi::{c_int, c_void},
    io::{self, IoSliceMut},
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

/// An IPv4 packet, as it came from the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The packet, beginning with its IPv4 header.
    pub bytes: Vec<u8>,
    /// The sender is on this machine and left the transport checksum to hardware that
    /// the packet never reached: the checksum is not one.
    pub unsummed: bool,
}

/// `TP_STATUS_CSUMNOTREADY` of linux/if_packet.h.
const CHECKSUM_NOT_READY: u32 = 1 << 3;
/// `PACKET_AUXDATA` of linux/if_packet.h.
const PACKET_AUXDATA: c_int = 8;

/// Lets in IPv4, UDP, not a later fragment, to port 68. Offsets are from the IP header,
/// which is where a SOCK_DGRAM packet socket begins.
const TO_DHCP_CLIENT: [libc::sock_filter; 9] = [
    instruction(0x30, 0, 0, 9),      // A = protocol
    instruction(0x15, 0, 6, 17),     // UDP, or drop
    instruction(0x28, 0, 0, 6),      // A = flags and fragment offset
    instruction(0x45, 4, 0, 0x1fff), // a later fragment: drop
    instruction(0xb1, 0, 0, 0),      // X = length of the IP header
    instruction(0x48, 0, 0, 2),      // A = destination port
    instruction(0x15, 0, 1, 68),     // 68, or drop
    instruction(0x06, 0, 0, 0xffff), // take
    instruction(0x06, 0, 0, 0),      // drop
];

const fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// A socket for one link, by its index; non-blocking and close-on-exec. Needs CAP_NET_RAW.
pub fn open(link: u32) -> io::Result<OwnedFd> {
    // Without a protocol nothing is received until the filter is there and bind names one.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, None)?;
    let mut filter = TO_DHCP_CLIENT;
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    set_option(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
    set_option(&socket, libc::SOL_PACKET, PACKET_AUXDATA, &1)?;
    let address = address(link, libc::ETH_P_IP, [0; 6])?;
    // SAFETY: the descriptor is open for the call; the kernel reads the length given from the
    // address, which is a whole sockaddr_ll on this stack, and does not keep it.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(socket)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sends an IPv4 packet, with its header, to a hardware address on the link.
pub fn send(socket: impl AsFd, link: u32, to: [u8; 6], packet: &[u8]) -> io::Result<()> {
    send_to(socket, &address(link, libc::ETH_P_IP, to)?, packet)
}

fn send_to(socket: impl AsFd, to: &libc::sockaddr_ll, packet: &[u8]) -> io::Result<()> {
    let to: *const libc::sockaddr_ll = to;
    // SAFETY: the descriptor is open for the call; the kernel reads as many bytes as given from
    // the packet and from the address, which is a whole sockaddr_ll, and keeps neither.
    let sent = unsafe {
        libc::sendto(
            socket.as_fd().as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            libc::MSG_DONTWAIT,
            to.cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Receives one packet, without its Ethernet header; what is beyond 2048 bytes is cut off.
/// `None` where none is there now.
pub fn receive(socket: impl AsFd) -> io::Result<Option<Packet>> {
    let mut bytes = vec![0; 2048];
    let mut control = nix::cmsg_space!([u8; 64]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = loop {
        let socket = socket.as_fd().as_raw_fd();
        match recvmsg::<()>(
            socket,
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(received) => break received,
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::EAGAIN) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    };
    let mut unsummed = false;
    for message in received.cmsgs()? {
        if let ControlMessageOwned::Unknown(message) = message
            && (
                message.cmsg_header.cmsg_level,
                message.cmsg_header.cmsg_type,
            ) == (libc::SOL_PACKET, PACKET_AUXDATA)
            && let Some(status) = message.data_bytes.first_chunk()
        {
            // The status is the first field of struct tpacket_auxdata.
            unsummed = u32::from_ne_bytes(*status) & CHECKSUM_NOT_READY != 0;
        }
    }
    let length = received.bytes;
    bytes.truncate(length);
    Ok(Some(Packet { bytes, unsummed }))
}

/// Tells everybody on the link that an IPv4 address is at this hardware address: an ARP
/// announcement (RFC 5227, section 3). Needs CAP_NET_RAW.
pub fn announce(link: u32, hardware: [u8; 6], ip: Ipv4Addr) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, None)?;
    let to = address(link, libc::ETH_P_ARP, [0xff; 6])?;
    send_to(&socket, &to, &announcement(hardware, ip))
}

/// A request for the address that it comes from (RFC 826).
fn announcement(hardware: [u8; 6], ip: Ipv4Addr) -> [u8; 28] {
    let mut message = [0; 28];
    // Ethernet, IPv4, six and four octets, a request.
    message[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    message[8..14].copy_from_slice(&hardware);
    message[14..18].copy_from_slice(&ip.octets());
    message[24..].copy_from_slice(&ip.octets());
    message
}

fn address(link: u32, protocol: c_int, hardware: [u8; 6]) -> io::Result<libc::sockaddr_ll> {
    let mut address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (protocol as u16).to_be(),
        sll_ifindex: link.try_into().map_err(|_| io::ErrorKind::InvalidInput)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    address.sll_addr[..6].copy_from_slice(&hardware);
    Ok(address)
}

/// Sets an option that the kernel reads as a plain structure.
fn set_option<T>(socket: &OwnedFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let value: *const T = value;
    // SAFETY: the descriptor is open for the call; the kernel reads the size of T from a
    // reference to a T. Where T points further (sock_fprog to its instructions, which the caller
    // holds until this returns), the kernel copies what is there before it returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.cast::<c_void>(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::UdpSocket, time::Duration};

    /// The index of the loopback link in every network namespace.
    const LOOPBACK: u32 = 1;

    #[test]
    fn an_announcement_asks_for_the_address_it_comes_from() {
        let message = announcement([2, 0, 0, 0, 0, 9], Ipv4Addr::new(10, 0, 0, 100));
        let wanted = [
            0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 10, 0, 0, 100, 0, 0, 0, 0, 0, 0, 10, 0, 0,
            100,
        ];
        assert_eq!(message, wanted);
    }

    #[test]
    fn only_what_is_for_the_client_is_let_in() {
        let socket = match open(LOOPBACK) {
            Ok(socket) => socket,
            Err(error) => {
                eprintln!("skipped: a packet socket is not permitted here: {error}");
                return;
            }
        };
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"not this", "127.0.0.1:6868").unwrap();
        sender.send_to(b"this", "127.0.0.1:68").unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let packet = receive(&socket).unwrap().unwrap();
        assert_eq!(packet.bytes[0], 0x45);
        assert!(packet.bytes.ends_with(b"this"));
        assert!(packet.unsummed, "loopback never sums");
        // It is seen once on its way out and once on its way in, nothing else is.
        while let Some(packet) = receive(&socket).unwrap() {
            assert!(packet.bytes.ends_with(b"this"));
        }
        send(&socket, LOOPBACK, [0; 6], &packet.bytes).unwrap();
    }

    #[test]
    fn a_link_that_is_not_there_is_an_error() {
        assert!(open(0x7fff_fff0).is_err());
        assert!(open(u32::MAX).is_err());
    }
}
