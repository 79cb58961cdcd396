//! Addresses of links. One that machined added has its mark in IFA_PROTO.

use super::{Mark, Netlink, plain};
use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use keelson_config::Cidr;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol, CacheInfo,
};
use std::time::Duration;

/// An address of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// The link's number.
    pub link: u32,
    /// The address and its prefix.
    pub cidr: Cidr,
    /// For how long yet; `None` is for ever.
    pub lifetime: Option<Duration>,
    /// For how long new connections may come from it yet; `None` is as long as it is there.
    pub preferred: Option<Duration>,
    /// Whether no other machine has it.
    pub unique: Unique,
    /// Why machined added it; `None` where somebody else did.
    pub mark: Option<Mark>,
}

/// What duplicate address detection found (RFC 4862, section 5.4); the kernel does it for
/// IPv6 alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Unique {
    /// No other machine has the address, or nobody asked.
    #[default]
    Yes,
    /// It is being found out: the address cannot be used yet.
    Unknown,
    /// Another machine has it.
    No,
}

/// INFINITY_LIFE_TIME of the kernel's addrconf.h.
const FOREVER: u32 = u32::MAX;

impl Netlink {
    /// All addresses.
    pub(crate) async fn addresses(&self) -> anyhow::Result<Vec<Address>> {
        let all: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(plain)
            .context("listing addresses")?;
        Ok(all.iter().filter_map(address).collect())
    }

    /// Adds an address, or gives the one that is there another lifetime and mark.
    pub(crate) async fn add_address(&self, new: &Address) -> anyhow::Result<()> {
        let Cidr { addr, prefix } = new.cidr;
        let mut request = self.handle.address().add(new.link, addr, prefix).replace();
        let attributes = &mut request.message_mut().attributes;
        let mut cache = CacheInfo::default();
        let seconds = |left: Duration| (left.as_secs() + 1).try_into().unwrap_or(FOREVER);
        // Rounded up: the kernel takes no zero, and its last second is ours to remove.
        cache.ifa_valid = new.lifetime.map_or(FOREVER, seconds);
        cache.ifa_preferred = match new.preferred {
            Some(Duration::ZERO) => 0,
            Some(left) => seconds(left).min(cache.ifa_valid),
            None => cache.ifa_valid,
        };
        if new.mark == Some(Mark::Shared) {
            // Deprecated: nothing that begins here comes from it.
            cache.ifa_preferred = 0;
        }
        attributes.push(AddressAttribute::CacheInfo(cache));
        if let Some(mark) = new.mark {
            attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(
                mark.number(),
            )));
        }
        Ok(request.execute().await.map_err(plain)?)
    }

    /// Removes an address.
    pub(crate) async fn remove_address(&self, link: u32, cidr: Cidr) -> anyhow::Result<()> {
        let all: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .set_link_index_filter(link)
            .execute()
            .try_collect()
            .await
            .map_err(plain)?;
        // As the kernel has it: an address may have a peer, a label, a broadcast address.
        for message in all {
            if address(&message).is_some_and(|found| found.cidr == cidr) {
                self.handle
                    .address()
                    .del(message)
                    .execute()
                    .await
                    .map_err(plain)?;
            }
        }
        Ok(())
    }
}

fn address(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut given, mut lifetime, mut mark) = (None, None, None, None);
    let mut preferred = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => given = Some(*address),
            AddressAttribute::CacheInfo(cache) => {
                let lasting = |seconds: u32| {
                    (seconds != FOREVER).then(|| Duration::from_secs(seconds.into()))
                };
                lifetime = lasting(cache.ifa_valid);
                preferred = lasting(cache.ifa_preferred)
                    .filter(|_| cache.ifa_valid.abs_diff(cache.ifa_preferred) > 1);
            }
            AddressAttribute::Protocol(protocol) => mark = Mark::from((*protocol).into()),
            _ => {}
        }
    }
    // Where there is a peer, "address" is the peer's.
    let addr = local.or(given)?;
    let cidr = Cidr {
        addr,
        prefix: message.header.prefix_len,
    };
    Some(Address {
        link: message.header.index,
        cidr,
        lifetime,
        preferred,
        unique: match message.header.flags {
            flags if flags.contains(AddressHeaderFlags::Dadfailed) => Unique::No,
            flags if flags.contains(AddressHeaderFlags::Tentative) => Unique::Unknown,
            _ => Unique::Yes,
        },
        mark,
    })
}
