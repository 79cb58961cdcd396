//! A part of a disk as if it were a whole one.

use std::io::{self, Read, Seek, SeekFrom, Write};

/// The bytes `start..start + length` of `inner`.
pub struct Window<'a, T> {
    inner: &'a mut T,
    start: u64,
    length: u64,
    position: u64,
}

impl<'a, T> Window<'a, T> {
    /// The part of `inner` that begins at `start` and has `length` bytes.
    pub fn new(inner: &'a mut T, start: u64, length: u64) -> Window<'a, T> {
        Window {
            inner,
            start,
            length,
            position: 0,
        }
    }

    /// As many of `wanted` bytes as there are before the end.
    fn clip(&self, wanted: usize) -> usize {
        let left = self.length.saturating_sub(self.position);
        usize::try_from(left).map_or(wanted, |left| wanted.min(left))
    }
}

impl<T: Read + Seek> Read for Window<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.clip(buffer.len());
        self.inner
            .seek(SeekFrom::Start(self.start + self.position))?;
        let n = self.inner.read(&mut buffer[..n])?;
        self.position += n as u64;
        Ok(n)
    }
}

impl<T: Write + Seek> Write for Window<'_, T> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let n = self.clip(buffer.len());
        self.inner
            .seek(SeekFrom::Start(self.start + self.position))?;
        let n = self.inner.write(&buffer[..n])?;
        self.position += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T> Seek for Window<'_, T> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
