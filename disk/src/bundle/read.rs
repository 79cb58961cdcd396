//! Reading a bundle, in the order in which it comes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::marker::PhantomData;

use sha2::{Digest, Sha256};
use zstd::stream::read::Decoder;

use super::head::Head;
use super::key::{KeyId, Keys};
use super::manifest::Manifest;
use super::write::WINDOW_LOG;
use super::{Error, Part};

const BUFFER: usize = 128 << 10;

/// The UKI comes next.
#[derive(Debug)]
pub enum AtUki {}
/// The root image comes next.
#[derive(Debug)]
pub enum AtImage {}
/// Nothing may come any more.
#[derive(Debug)]
pub enum AtEnd {}

/// A bundle whose signature was found good, read as far as `At` says.
#[derive(Debug)]
pub struct Bundle<R, At = AtUki> {
    source: R,
    manifest: Manifest,
    signed_by: Vec<KeyId>,
    head_bytes: u64,
    at: PhantomData<At>,
}

impl<R: Read> Bundle<R> {
    /// Reads the head, checks its signature and only then looks into the manifest.
    pub fn open(mut source: R, keys: &Keys) -> Result<Bundle<R>, Error> {
        let head = Head::read(&mut source)?;
        let signed_by = head.check(keys)?;
        Ok(Bundle {
            source,
            manifest: head.manifest()?,
            signed_by,
            head_bytes: head.bytes(),
            at: PhantomData,
        })
    }

    /// Copies the UKI into `sink` and checks it. The sink's content counts only if this is `Ok`.
    pub fn uki(mut self, sink: &mut impl Write) -> Result<Bundle<R, AtImage>, Error> {
        let uki = self.manifest.uki;
        let mut section = Section::new(&mut self.source, Part::Uki, uki.bytes);
        section.copy(sink)?;
        section.check(&uki.sha256)?;
        flush(sink, Part::Uki)?;
        Ok(self.next())
    }
}

impl<R: Read> Bundle<R, AtImage> {
    /// Unpacks the root image into `sink` and checks it: the packed bytes against their digest,
    /// the unpacked ones against their number (no more than that is ever written). The sink's
    /// content counts only if this is `Ok`. What is in a slot afterwards is the hash tree's to
    /// prove, see [`crate::verity::verify`].
    pub fn image(mut self, sink: &mut impl Write) -> Result<Bundle<R, AtEnd>, Error> {
        let image = self.manifest.image;
        let section = Section::new(&mut self.source, Part::Image, image.bytes);
        let (section, exact) = unpack(section, image.unpacked_bytes, sink)?;
        section.check(&image.sha256)?;
        if !exact {
            return Err(Error::Unpacked(image.unpacked_bytes));
        }
        flush(sink, Part::Image)?;
        Ok(self.next())
    }
}

impl<R: Read> Bundle<R, AtEnd> {
    /// Nothing may follow.
    pub fn finish(mut self) -> Result<Manifest, Error> {
        match read(&mut self.source, &mut [0]) {
            Ok(0) => Ok(self.manifest),
            Ok(_) => Err(Error::Trailing),
            Err(error) => Err(Error::Source(error)),
        }
    }
}

impl<R, At> Bundle<R, At> {
    /// What the bundle holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The trusted keys that have signed it, at least one.
    pub fn signed_by(&self) -> &[KeyId] {
        &self.signed_by
    }

    /// How many bytes the whole bundle has.
    pub fn bytes(&self) -> u64 {
        self.head_bytes + self.manifest.uki.bytes + self.manifest.image.bytes
    }

    fn next<Next>(self) -> Bundle<R, Next> {
        Bundle {
            source: self.source,
            manifest: self.manifest,
            signed_by: self.signed_by,
            head_bytes: self.head_bytes,
            at: PhantomData,
        }
    }
}

/// Reads a whole bundle and keeps nothing of it.
pub fn verify(source: impl Read, keys: &Keys) -> Result<Manifest, Error> {
    let mut sink = io::sink();
    Bundle::open(source, keys)?
        .uki(&mut sink)?
        .image(&mut sink)?
        .finish()
}

/// One read that a signal does not end.
fn read(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Reads exactly as much as the buffer takes.
pub(super) fn fill(source: &mut impl Read, buffer: &mut [u8], part: Part) -> Result<(), Error> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read(source, &mut buffer[filled..]).map_err(Error::Source)? {
            0 => return Err(Error::Truncated(part)),
            n => filled += n,
        }
    }
    Ok(())
}

fn put(sink: &mut impl Write, bytes: &[u8], part: Part) -> Result<(), Error> {
    sink.write_all(bytes)
        .map_err(|source| Error::Sink { part, source })
}

fn flush(sink: &mut impl Write, part: Part) -> Result<(), Error> {
    sink.flush().map_err(|source| Error::Sink { part, source })
}

/// One part of the source: so many bytes and no more, and their digest as they pass.
struct Section<'a, R> {
    source: &'a mut R,
    part: Part,
    left: u64,
    hash: Sha256,
    /// Why the source gave no more. Kept here because it has to pass through a decoder, which
    /// has errors of its own.
    fault: Option<Error>,
}

impl<'a, R: Read> Section<'a, R> {
    fn new(source: &'a mut R, part: Part, bytes: u64) -> Section<'a, R> {
        Section {
            source,
            part,
            left: bytes,
            hash: Sha256::new(),
            fault: None,
        }
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if most == 0 {
            return Ok(0);
        }
        let n = read(self.source, &mut buffer[..most]).map_err(Error::Source)?;
        if n == 0 {
            return Err(Error::Truncated(self.part));
        }
        self.hash.update(&buffer[..n]);
        self.left -= n as u64;
        Ok(n)
    }

    fn copy(&mut self, sink: &mut impl Write) -> Result<(), Error> {
        let mut buffer = vec![0; BUFFER];
        loop {
            match self.next(&mut buffer)? {
                0 => return Ok(()),
                n => put(sink, &buffer[..n], self.part)?,
            }
        }
    }

    fn check(self, sha256: &[u8; 32]) -> Result<(), Error> {
        if self.hash.finalize()[..] != sha256[..] {
            return Err(Error::Damaged(self.part));
        }
        Ok(())
    }
}

impl<R: Read> Read for Section<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.next(buffer).map_err(|error| {
            self.fault = Some(error);
            io::Error::other("the source failed")
        })
    }
}

/// Unpacks the section's one frame, then reads what is left of the section; says whether it was
/// one frame of `bytes` bytes and nothing else.
fn unpack<'a, R: Read>(
    section: Section<'a, R>,
    bytes: u64,
    sink: &mut impl Write,
) -> Result<(Section<'a, R>, bool), Error> {
    let packed = BufReader::with_capacity(BUFFER, section);
    let mut decoder = Decoder::with_buffer(packed)
        .and_then(|mut decoder| decoder.window_log_max(WINDOW_LOG).map(|()| decoder))
        .map_err(Error::Source)?
        .single_frame();
    let mut buffer = vec![0; BUFFER];
    let mut left = bytes;
    loop {
        match read(&mut decoder, &mut buffer) {
            Ok(0) => break,
            Ok(n) if n as u64 > left => {
                left = 1;
                break;
            }
            Ok(n) => {
                put(sink, &buffer[..n], Part::Image)?;
                left -= n as u64;
            }
            Err(_) => {
                let fault = decoder.get_mut().get_mut().fault.take();
                return Err(fault.unwrap_or(Error::Damaged(Part::Image)));
            }
        }
    }
    let mut packed = decoder.finish();
    let mut exact = left == 0;
    loop {
        let surplus = match packed.fill_buf() {
            Ok(surplus) => surplus.len(),
            Err(error) => {
                let fault = packed.get_mut().fault.take();
                return Err(fault.unwrap_or(Error::Source(error)));
            }
        };
        if surplus == 0 {
            return Ok((packed.into_inner(), exact));
        }
        exact = false;
        packed.consume(surplus);
    }
}
