//! Wakes the loop when the kernel says that a device came or went. What came is not
//! taken from the message: the nouns look again.

use crate::engine::Wake;
use netlink_sys::{
    AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket,
    protocols::NETLINK_KOBJECT_UEVENT,
};
use std::{io, time::Duration};
use tokio::time::sleep;

/// The multicast group of the kernel's own messages.
const KERNEL: u32 = 1;

/// Listens for ever.
pub(super) async fn watch(wake: Wake) {
    loop {
        if let Err(error) = listen(&wake).await {
            tracing::warn!("listening for kernel events: {error}");
        }
        // What came meanwhile was missed: look.
        wake.notify_one();
        sleep(Duration::from_secs(10)).await;
    }
}

async fn listen(wake: &Wake) -> io::Result<()> {
    let mut socket = TokioSocket::new(NETLINK_KOBJECT_UEVENT)?;
    socket.socket_mut().bind(&SocketAddr::new(0, KERNEL))?;
    loop {
        match socket.recv_from_full().await {
            // The kernel's port is 0: no program can pretend to be it.
            Ok((message, from)) if from.port_number() == 0 && matters(&message) => {
                wake.notify_one()
            }
            Ok(_) => {}
            Err(error)
                if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) =>
            {
                wake.notify_one()
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether a message is of a device that a noun may care for: disks and real links,
/// not those that pods come and go with. It is `ACTION@DEVPATH`, then `KEY=VALUE`,
/// each ended by a zero.
fn matters(message: &[u8]) -> bool {
    let mut fields = message.split(|byte| *byte == 0);
    let virtual_one = fields
        .next()
        .is_some_and(|head| head.windows(17).any(|part| part == b"/devices/virtual/"));
    let subsystem = fields.find_map(|field| field.strip_prefix(b"SUBSYSTEM="));
    !virtual_one && matches!(subsystem, Some(b"block" | b"net" | b"firmware"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_disks_and_real_links_wake_the_loop() {
        let cases: [(&[u8], bool); 6] = [
            (b"add@/devices/pci0000:00/0000:00:03.0/virtio0/net/eth0\0ACTION=add\0SUBSYSTEM=net\0SEQNUM=1\0", true),
            (b"add@/devices/pci0000:00/0000:00:04.0/virtio1/block/vda/vda7\0ACTION=add\0SUBSYSTEM=block\0", true),
            (b"add@/devices/virtual/net/veth12\0ACTION=add\0SUBSYSTEM=net\0", false),
            (b"change@/devices/pci0000:00/x\0ACTION=change\0SUBSYSTEM=pci\0", false),
            (b"SUBSYSTEM=net", false),
            (b"", false),
        ];
        for (message, wanted) in cases {
            assert_eq!(
                matters(message),
                wanted,
                "{}",
                String::from_utf8_lossy(message)
            );
        }
    }
}
