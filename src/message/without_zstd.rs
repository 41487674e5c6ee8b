//! What stands for Zstandard in a program that was built without it: nothing is compressed, and nothing to expand is
//! ever made.

use std::convert::Infallible;
use std::io;
use std::marker::PhantomData;

/// None is ever made.
pub(super) struct Compressor<'a>(Infallible, PhantomData<&'a ()>);

impl Compressor<'_> {
    pub(super) fn new(_: i32) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn compress(&mut self, _: &[u8]) -> io::Result<Vec<u8>> {
        match self.0 {}
    }
}

/// None is ever made.
pub(super) struct Decompressor<'a>(Infallible, PhantomData<&'a ()>);

impl Decompressor<'_> {
    pub(super) fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn decompress_to_buffer(&mut self, _: &[u8], _: &mut [u8]) -> io::Result<usize> {
        match self.0 {}
    }
}
