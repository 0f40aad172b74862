//! Compresses the data of a backup and decompresses it, with its size and hash.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::manifest::DataFile;
use crate::error::{Error, Result};
use crate::hash::hexadecimal;

/// Compresses a file into one that must not exist.
pub(super) fn pack(from: &Path, to: &Path) -> Result<DataFile> {
    let run = || -> io::Result<DataFile> {
        let source = File::open(from)?;
        let unpacked = source.metadata()?.len();
        let target = File::options().write(true).create_new(true).mode(0o600).open(to)?;
        let mut encoder = zstd::Encoder::new(HashingStream::new(target), zstd::DEFAULT_COMPRESSION_LEVEL)?;
        encoder.set_pledged_src_size(Some(unpacked))?;
        encoder.include_checksum(true)?;
        io::copy(&mut BufReader::with_capacity(1 << 17, source), &mut encoder)?;
        let (size, sha256) = encoder.finish()?.finish();
        Ok(DataFile { size, sha256, unpacked })
    };
    run().map_err(|error| Error::io("compress the backup into", to, error))
}

/// Decompresses at most `expected` bytes and one more, which reveals that there are too many. Returns the number of
/// bytes.
pub(super) fn decompress(source: impl Read, expected: u64, into: &Path) -> io::Result<u64> {
    let target = File::options().write(true).create_new(true).mode(0o600).open(into)?;
    let decoder = zstd::Decoder::new(source)?.single_frame();
    let mut target = BufWriter::with_capacity(1 << 17, target);
    let length = io::copy(&mut decoder.take(expected.saturating_add(1)), &mut target)?;
    target.flush()?;
    Ok(length)
}

/// A stream that counts and hashes the bytes that pass through it.
pub(super) struct HashingStream<T> {
    inner: T,
    hasher: Sha256,
    size: u64,
}

impl<T> HashingStream<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner, hasher: Sha256::new(), size: 0 }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
    }

    pub(super) fn finish(self) -> (u64, String) {
        (self.size, hexadecimal(&self.hasher.finalize()))
    }
}

impl<R: Read> Read for HashingStream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.add(&buffer[..length]);
        Ok(length)
    }
}

impl<W: Write> Write for HashingStream<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.add(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
