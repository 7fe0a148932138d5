//! A cursor over hostile bytes: every read names its field and is bounds-checked.

use crate::QuoteError;

pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    pub(crate) const fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) fn take(&mut self, field: &'static str, wanted: usize) -> Result<&'a [u8], QuoteError> {
        let left = self.bytes.get(self.offset..).unwrap_or_default();
        let Some(taken) = left.get(..wanted) else {
            return Err(QuoteError::Truncated { field, offset: self.offset, wanted, left: left.len() });
        };
        self.offset += wanted;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], QuoteError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(field, N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, QuoteError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, QuoteError> {
        self.array(field).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, QuoteError> {
        self.array(field).map(u32::from_le_bytes)
    }

    /// A u32 size; on a 16-bit target it would saturate and then be refused as truncated.
    pub(crate) fn size(&mut self, field: &'static str) -> Result<usize, QuoteError> {
        self.u32(field).map(|size| usize::try_from(size).unwrap_or(usize::MAX))
    }
}
