//! DHCP messages (RFC 2131, section 2; options of RFC 2132, 3396 and 3442): written, and
//! read from a hostile network. Pure. An option that makes no sense is left out; only
//! what makes the whole of a message senseless makes it `None`.

use keelson_config::MacAddr;
use std::{borrow::Cow, collections::BTreeMap, net::Ipv4Addr};

/// What a request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    /// Discover or request.
    pub kind: Kind,
    /// Names this exchange.
    pub transaction: u32,
    /// Seconds since it began.
    pub seconds: u16,
    /// Who asks.
    pub mac: MacAddr,
    /// The name to tell the server; may be empty.
    pub hostname: &'a str,
    /// The address that the machine has and uses; else unspecified.
    pub client: Ipv4Addr,
    /// The address that it asks for.
    pub requested: Option<Ipv4Addr>,
    /// The server whose offer is taken.
    pub server: Option<Ipv4Addr>,
}

/// What a message is, of those a client knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Who lends addresses?
    #[default]
    Discover,
    /// A server would.
    Offer,
    /// Lend me this one.
    Request,
    /// It is yours.
    Ack,
    /// It is not.
    Nak,
}

/// What a server says, as far as it can be read; nothing in it is checked yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Offer, ack or nak.
    pub kind: Kind,
    /// The exchange it belongs to.
    pub transaction: u32,
    /// The address lent; a refusal names none.
    pub address: Option<Ipv4Addr>,
    /// Who says it.
    pub server: Option<Ipv4Addr>,
    /// The network's mask.
    pub mask: Option<Ipv4Addr>,
    /// Default gateways, the best first.
    pub routers: Vec<Ipv4Addr>,
    /// Classless routes: network, prefix, gateway.
    pub classless: Vec<(Ipv4Addr, u8, Ipv4Addr)>,
    /// Resolvers.
    pub dns: Vec<Ipv4Addr>,
    /// The domain's name.
    pub domain: Option<String>,
    /// The machine's name.
    pub hostname: Option<String>,
    /// The link's MTU.
    pub mtu: Option<u16>,
    /// Seconds that the address is lent.
    pub lease: Option<u32>,
    /// Seconds until T1.
    pub renew: Option<u32>,
    /// Seconds until T2.
    pub rebind: Option<u32>,
    /// Why a server refuses, in its words.
    pub message: Option<String>,
}

const BOOT_REQUEST: u8 = 1;
const BOOT_REPLY: u8 = 2;
const ETHERNET: u8 = 1;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const OPTIONS: usize = 240;
/// Servers and relays from BOOTP's days drop what is shorter (RFC 1542, section 2.1).
const SHORTEST: usize = 300;

const PAD: u8 = 0;
const MASK: u8 = 1;
const ROUTER: u8 = 3;
const DNS: u8 = 6;
const HOSTNAME: u8 = 12;
const DOMAIN: u8 = 15;
const MTU: u8 = 26;
const REQUESTED: u8 = 50;
const LEASE: u8 = 51;
const OVERLOAD: u8 = 52;
const KIND: u8 = 53;
const SERVER: u8 = 54;
const WANTED: u8 = 55;
const MESSAGE: u8 = 56;
const LARGEST: u8 = 57;
const RENEW: u8 = 58;
const REBIND: u8 = 59;
const CLIENT_ID: u8 = 61;
const CLASSLESS: u8 = 121;
const END: u8 = 255;

impl Request<'_> {
    /// The message's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; OPTIONS];
        bytes[..3].copy_from_slice(&[BOOT_REQUEST, ETHERNET, 6]);
        bytes[4..8].copy_from_slice(&self.transaction.to_be_bytes());
        bytes[8..10].copy_from_slice(&self.seconds.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.client.octets());
        bytes[28..34].copy_from_slice(&self.mac.0);
        bytes[236..240].copy_from_slice(&COOKIE);
        let mut option = |code: u8, value: &[u8]| {
            bytes.extend([code, value.len() as u8]);
            bytes.extend(value);
        };
        let kind = if self.kind == Kind::Discover { 1 } else { 3 };
        option(KIND, &[kind]);
        // The hardware address, as firmware says it: a machine that boots over the network
        // keeps its address, and so does one that is installed again.
        let [a, b, c, d, e, f] = self.mac.0;
        option(CLIENT_ID, &[ETHERNET, a, b, c, d, e, f]);
        if let Some(address) = self.requested {
            option(REQUESTED, &address.octets());
        }
        if let Some(server) = self.server {
            option(SERVER, &server.octets());
        }
        option(LARGEST, &1472u16.to_be_bytes());
        if (1..=63).contains(&self.hostname.len()) {
            option(HOSTNAME, self.hostname.as_bytes());
        }
        // Classless routes before the router, as RFC 3442 wants it.
        let wanted = [
            MASK, CLASSLESS, ROUTER, DNS, HOSTNAME, DOMAIN, MTU, LEASE, SERVER, RENEW, REBIND,
        ];
        option(WANTED, &wanted);
        bytes.push(END);
        bytes.resize(bytes.len().max(SHORTEST), PAD);
        bytes
    }
}

impl Reply {
    /// Reads a reply to the client with this hardware address; `None` for anything else.
    pub(crate) fn decode(bytes: &[u8], mac: MacAddr) -> Option<Reply> {
        let fixed = bytes.get(..OPTIONS)?;
        if fixed[..3] != [BOOT_REPLY, ETHERNET, 6]
            || fixed[28..34] != mac.0
            || fixed[236..240] != COOKIE
        {
            return None;
        }
        let options = options(bytes);
        let get = |code: u8| options.get(&code).map(|value| value.as_ref());
        let kind = match get(KIND)? {
            [2] => Kind::Offer,
            [5] => Kind::Ack,
            [6] => Kind::Nak,
            _ => return None,
        };
        let address = |code| get(code).and_then(exact).map(Ipv4Addr::from);
        let number = |code| get(code).and_then(exact).map(u32::from_be_bytes);
        let list = |code| {
            let (addresses, _) = get(code).unwrap_or_default().as_chunks::<4>();
            addresses
                .iter()
                .map(|&octets| Ipv4Addr::from(octets))
                .collect()
        };
        let text = |code| get(code).map(|text| String::from_utf8_lossy(text).into_owned());
        Some(Reply {
            kind,
            transaction: u32::from_be_bytes(*fixed[4..].first_chunk()?),
            address: Some(Ipv4Addr::from(*fixed[16..].first_chunk::<4>()?))
                .filter(|address| !address.is_unspecified()),
            server: address(SERVER),
            mask: address(MASK),
            routers: list(ROUTER),
            classless: get(CLASSLESS).and_then(classless).unwrap_or_default(),
            dns: list(DNS),
            domain: text(DOMAIN),
            hostname: text(HOSTNAME),
            mtu: get(MTU).and_then(exact).map(u16::from_be_bytes),
            lease: number(LEASE),
            renew: number(RENEW),
            rebind: number(REBIND),
            message: text(MESSAGE),
        })
    }
}

/// A value of just this length.
fn exact<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    value.try_into().ok()
}

type Options<'a> = BTreeMap<u8, Cow<'a, [u8]>>;

/// All options: those behind the cookie, then, where the message says so, those in the
/// fields `file` and `sname`. What is there more than once is one value (RFC 3396).
fn options(bytes: &[u8]) -> Options<'_> {
    let mut options = Options::new();
    collect(&bytes[OPTIONS..], &mut options);
    let overload = options
        .get(&OVERLOAD)
        .and_then(|value| value.first().copied())
        .unwrap_or(0);
    if overload & 1 != 0 {
        collect(&bytes[108..236], &mut options);
    }
    if overload & 2 != 0 {
        collect(&bytes[44..108], &mut options);
    }
    options
}

/// Adds the options of one field. One that runs over the end ends the field.
fn collect<'a>(mut field: &'a [u8], options: &mut Options<'a>) {
    while let Some((&code, rest)) = field.split_first() {
        field = rest;
        match code {
            PAD => continue,
            END => return,
            _ => {}
        }
        let Some((&length, rest)) = rest.split_first() else {
            return;
        };
        let Some((value, rest)) = rest.split_at_checked(length.into()) else {
            return;
        };
        field = rest;
        options
            .entry(code)
            .and_modify(|all| all.to_mut().extend(value))
            .or_insert(Cow::Borrowed(value));
    }
}

/// Classless routes (RFC 3442): the prefix, as many octets of the network as it needs,
/// the gateway. One that is wrong makes the rest unreadable, so all are left out.
fn classless(mut value: &[u8]) -> Option<Vec<(Ipv4Addr, u8, Ipv4Addr)>> {
    let mut routes = Vec::new();
    while let Some((&prefix, rest)) = value.split_first() {
        if prefix > 32 {
            return None;
        }
        let (given, rest) = rest.split_at_checked(usize::from(prefix).div_ceil(8))?;
        let mut network = [0; 4];
        network[..given.len()].copy_from_slice(given);
        let (gateway, rest) = rest.split_first_chunk::<4>()?;
        routes.push((network.into(), prefix, Ipv4Addr::from(*gateway)));
        value = rest;
    }
    Some(routes)
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
