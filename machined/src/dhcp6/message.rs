//! DHCPv6 messages (RFC 8415, sections 8 and 21; resolvers and domains of RFC 3646):
//! written, and read from a hostile network. Pure. An option that makes no sense is left
//! out; only what makes the whole of a message senseless makes it `None`.

use std::net::Ipv6Addr;

/// What a message is, of those a client speaks (RFC 8415, section 7.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Who lends addresses?
    #[default]
    Solicit = 1,
    /// A server would.
    Advertise = 2,
    /// Lend me this one.
    Request = 3,
    /// Does this one belong where I am?
    Confirm = 4,
    /// Lend it me for longer, you who lent it.
    Renew = 5,
    /// Lend it me for longer, anybody.
    Rebind = 6,
    /// What a server says to all of these but the first.
    Reply = 7,
    /// Somebody else has the address.
    Decline = 9,
}

const KINDS: [Kind; 8] = [
    Kind::Solicit,
    Kind::Advertise,
    Kind::Request,
    Kind::Confirm,
    Kind::Renew,
    Kind::Rebind,
    Kind::Reply,
    Kind::Decline,
];

/// How it went (RFC 8415, section 21.13).
pub(crate) mod status {
    /// Well; what is said by saying nothing.
    pub(crate) const SUCCESS: u16 = 0;
    /// The server has no address to lend.
    pub(crate) const NO_ADDRESSES: u16 = 2;
    /// The server does not know of what it is asked to go on lending.
    pub(crate) const NO_BINDING: u16 = 3;
    /// The address does not belong to this network.
    pub(crate) const NOT_ON_LINK: u16 = 4;
}

/// A message; nothing in one that was read is checked yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// What it is.
    pub kind: Kind,
    /// Names the exchange: 24 bits.
    pub transaction: u32,
    /// The client's DUID; empty if it does not say.
    pub client: Vec<u8>,
    /// The server's.
    pub server: Vec<u8>,
    /// What is asked for or lent.
    pub associations: Vec<Association>,
    /// The options that are asked for.
    pub wanted: Vec<u16>,
    /// How much the server wants to be chosen.
    pub preference: u8,
    /// Hundredths of a second since the exchange began.
    pub elapsed: Option<u16>,
    /// How it went, as a whole.
    pub status: u16,
    /// Two messages are enough.
    pub rapid: bool,
    /// Resolvers.
    pub dns: Vec<Ipv6Addr>,
    /// Domains to look short names up in.
    pub search: Vec<String>,
    /// The longest pause between two Solicits, in seconds.
    pub longest: Option<u32>,
}

/// A set of addresses that are lent together (IA_NA).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Association {
    /// Its number, of the client's choice.
    pub id: u32,
    /// Seconds until T1; 0 leaves it to the client.
    pub renew: u32,
    /// Seconds until T2.
    pub rebind: u32,
    /// The addresses.
    pub addresses: Vec<Lent>,
    /// How it went.
    pub status: u16,
}

/// An address that is lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lent {
    /// The address.
    pub address: Ipv6Addr,
    /// Seconds that new connections may come from it.
    pub preferred: u32,
    /// Seconds that it may be used at all.
    pub valid: u32,
    /// How it went.
    pub status: u16,
}

const CLIENT: u16 = 1;
const SERVER: u16 = 2;
const ASSOCIATION: u16 = 3;
const ADDRESS: u16 = 5;
const WANTED: u16 = 6;
const PREFERENCE: u16 = 7;
const ELAPSED: u16 = 8;
const STATUS: u16 = 13;
const RAPID: u16 = 14;
/// Resolvers (RFC 3646, section 3).
pub(crate) const DNS: u16 = 23;
/// Domains (RFC 3646, section 4).
pub(crate) const SEARCH: u16 = 24;
/// The longest pause between two Solicits.
pub(crate) const LONGEST: u16 = 82;

/// A DUID is two octets of type and at most 128 more (RFC 8415, section 11.1).
const LARGEST_DUID: usize = 130;

/// Adds an option. None of what is written here is longer than its length can say.
fn option(bytes: &mut Vec<u8>, code: u16, value: &[u8]) {
    let length = value.len().min(usize::from(u16::MAX));
    bytes.extend(code.to_be_bytes());
    bytes.extend((length as u16).to_be_bytes());
    bytes.extend(&value[..length]);
}

fn status_option(bytes: &mut Vec<u8>, status: u16) {
    if status != status::SUCCESS {
        option(bytes, STATUS, &status.to_be_bytes());
    }
}

impl Message {
    /// The message's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = (self.transaction & 0xff_ffff).to_be_bytes().to_vec();
        bytes[0] = self.kind as u8;
        for (code, duid) in [(CLIENT, &self.client), (SERVER, &self.server)] {
            if !duid.is_empty() {
                option(&mut bytes, code, duid);
            }
        }
        for association in &self.associations {
            option(&mut bytes, ASSOCIATION, &association.encode());
        }
        if let Some(elapsed) = self.elapsed {
            option(&mut bytes, ELAPSED, &elapsed.to_be_bytes());
        }
        if self.preference != 0 {
            option(&mut bytes, PREFERENCE, &[self.preference]);
        }
        status_option(&mut bytes, self.status);
        if self.rapid {
            option(&mut bytes, RAPID, &[]);
        }
        if !self.wanted.is_empty() {
            let codes: Vec<u8> = self.wanted.iter().flat_map(|it| it.to_be_bytes()).collect();
            option(&mut bytes, WANTED, &codes);
        }
        if !self.dns.is_empty() {
            let all: Vec<u8> = self.dns.iter().flat_map(Ipv6Addr::octets).collect();
            option(&mut bytes, DNS, &all);
        }
        if !self.search.is_empty() {
            option(&mut bytes, SEARCH, &names(&self.search));
        }
        if let Some(seconds) = self.longest {
            option(&mut bytes, LONGEST, &seconds.to_be_bytes());
        }
        bytes
    }

    /// Reads a message; `None` for what is none, or none that a client hears.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Message> {
        let (head, rest) = bytes.split_first_chunk::<4>()?;
        let [kind, a, b, c] = *head;
        let mut message = Message {
            kind: *KINDS.iter().find(|known| **known as u8 == kind)?,
            transaction: u32::from_be_bytes([0, a, b, c]),
            ..Message::default()
        };
        for (code, value) in Options(rest) {
            match code {
                CLIENT => duid(value, &mut message.client),
                SERVER => duid(value, &mut message.server),
                ASSOCIATION => message.associations.extend(Association::decode(value)),
                WANTED => {
                    let (codes, _) = value.as_chunks::<2>();
                    message.wanted = codes.iter().map(|&it| u16::from_be_bytes(it)).collect();
                }
                PREFERENCE => message.preference = *value.first().unwrap_or(&0),
                ELAPSED => message.elapsed = value.try_into().ok().map(u16::from_be_bytes),
                STATUS => message.status = read_status(value),
                RAPID => message.rapid = true,
                DNS => {
                    let (all, _) = value.as_chunks::<16>();
                    message.dns.extend(all.iter().map(|&it| Ipv6Addr::from(it)));
                }
                SEARCH => message.search.extend(read_names(value)),
                LONGEST => message.longest = value.try_into().ok().map(u32::from_be_bytes),
                _ => {}
            }
        }
        Some(message)
    }
}

impl Association {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [self.id, self.renew, self.rebind] {
            bytes.extend(number.to_be_bytes());
        }
        for lent in &self.addresses {
            let mut value = lent.address.octets().to_vec();
            value.extend(lent.preferred.to_be_bytes());
            value.extend(lent.valid.to_be_bytes());
            status_option(&mut value, lent.status);
            option(&mut bytes, ADDRESS, &value);
        }
        status_option(&mut bytes, self.status);
        bytes
    }

    fn decode(value: &[u8]) -> Option<Association> {
        let (id, rest) = number(value)?;
        let (renew, rest) = number(rest)?;
        let (rebind, rest) = number(rest)?;
        let mut association = Association {
            id,
            renew,
            rebind,
            ..Association::default()
        };
        for (code, value) in Options(rest) {
            match code {
                ADDRESS => association.addresses.extend(Lent::decode(value)),
                STATUS => association.status = read_status(value),
                _ => {}
            }
        }
        Some(association)
    }
}

impl Lent {
    fn decode(value: &[u8]) -> Option<Lent> {
        let (octets, rest) = value.split_first_chunk::<16>()?;
        let (preferred, rest) = number(rest)?;
        let (valid, rest) = number(rest)?;
        let status = Options(rest).find(|(code, _)| *code == STATUS);
        Some(Lent {
            address: Ipv6Addr::from(*octets),
            preferred,
            valid,
            status: status.map_or(status::SUCCESS, |(_, value)| read_status(value)),
        })
    }
}

/// The options of a field. One that runs over the end ends it.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (code, rest) = self.0.split_first_chunk::<2>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        self.0 = rest;
        Some((u16::from_be_bytes(*code), value))
    }
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*number), rest))
}

fn duid(value: &[u8], to: &mut Vec<u8>) {
    if (3..=LARGEST_DUID).contains(&value.len()) {
        *to = value.to_vec();
    }
}

/// A status without its number is as good as a failure of no known kind.
fn read_status(value: &[u8]) -> u16 {
    value
        .first_chunk()
        .map_or(u16::MAX, |code| u16::from_be_bytes(*code))
}

/// Names as RFC 1035, section 3.1, has them; none is shortened by a pointer.
fn names(names: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in names {
        for label in name.split('.').filter(|label| label.len() <= 63) {
            bytes.push(label.len() as u8);
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
    }
    bytes
}

/// The whole names before the first that makes no sense.
fn read_names(mut value: &[u8]) -> Vec<String> {
    let (mut names, mut name) = (Vec::new(), String::new());
    while let Some((&length, rest)) = value.split_first() {
        if length == 0 {
            names.push(std::mem::take(&mut name));
            value = rest;
            continue;
        }
        let Some((label, rest)) = rest.split_at_checked(length.into()) else {
            break;
        };
        if length > 63 {
            break;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&String::from_utf8_lossy(label));
        value = rest;
    }
    names
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
