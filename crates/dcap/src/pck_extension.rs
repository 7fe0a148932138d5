//! What Intel's extension 1.2.840.113741.1.13.1 of a PCK certificate says, read in one pass.
//!
//! Source: Intel "SGX PCK Certificate and Certificate Revocation List Profile Specification", section 1.3.5. Every entry is
//! a sequence of an object identifier and a value; lengths are definite and minimal.

use crate::PckIdentity;

/// Content of the identifier 1.2.840.113741.1.13.1.
pub(crate) const OID: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01];
/// The entry of the FMSPC up to its value, as DER has it: identifier .4, then an octet string of six bytes.
const FMSPC_ENTRY: [u8; 14] = [0x06, 0x0a, 0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01, 0x04, OCTET_STRING, 0x06];

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const SEQUENCE: u8 = 0x30;

/// The parts of the extension that decide something.
#[derive(Clone, Copy)]
pub(crate) struct PckExtension {
    pub(crate) ppid: [u8; 16],
    pub(crate) cpu_svn: [u8; 16],
    pub(crate) pce_svn: u16,
    pub(crate) pce_id: [u8; 2],
    pub(crate) fmspc: [u8; 6],
    pub(crate) platform_instance_id: Option<[u8; 16]>,
    pub(crate) dynamic_platform: Option<bool>,
    pub(crate) cached_keys: Option<bool>,
    pub(crate) smt: Option<bool>,
}

impl PckExtension {
    /// From the extension's value. `None` if anything in it is missing or of another form.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let all = Entries::of(value)?;
        let tcb = Entries { content: all.required(&[2], SEQUENCE)? };
        // One or two bytes, else it is no SGX type at all.
        if !matches!(all.required(&[5], ENUMERATED)?.len(), 1 | 2) {
            return None;
        }
        let configuration = Entries { content: all.find(&[7], SEQUENCE).ok()?.unwrap_or_default() };
        let flag = |arc| configuration.find(&[7, arc], BOOLEAN)?.map(boolean).transpose();
        Some(Self {
            ppid: array(all.required(&[1], OCTET_STRING)?).ok()?,
            cpu_svn: array(tcb.required(&[2, 18], OCTET_STRING)?).ok()?,
            pce_svn: match *tcb.required(&[2, 17], INTEGER)? {
                [low] => u16::from(low),
                [high, low] => u16::from_be_bytes([high, low]),
                _ => return None,
            },
            pce_id: array(all.required(&[3], OCTET_STRING)?).ok()?,
            fmspc: array(all.required(&[4], OCTET_STRING)?).ok()?,
            platform_instance_id: all.find(&[6], OCTET_STRING).and_then(|value| value.map(array).transpose()).ok()?,
            dynamic_platform: flag(1).ok()?,
            cached_keys: flag(2).ok()?,
            smt: flag(3).ok()?,
        })
    }

    pub(crate) fn identity(&self) -> PckIdentity {
        PckIdentity {
            ppid: self.ppid.to_vec(),
            fmspc: self.fmspc,
            pce_id: self.pce_id.to_vec(),
            pce_svn: self.pce_svn,
            cpu_svn: self.cpu_svn,
            platform_instance_id: self.platform_instance_id,
            dynamic_platform: self.dynamic_platform,
            cached_keys: self.cached_keys,
            smt: self.smt,
        }
    }
}

/// The FMSPC of a certificate, found without reading anything else of it: a claim, good for choosing collateral.
pub(crate) fn claimed_fmspc(certificate: &[u8]) -> Option<[u8; 6]> {
    let start = certificate.windows(FMSPC_ENTRY.len()).position(|window| window == FMSPC_ENTRY)? + FMSPC_ENTRY.len();
    array(certificate.get(start..start + 6)?).ok()
}

/// Not what DER or Intel's profile says.
struct Malformed;

fn array<const N: usize>(value: &[u8]) -> Result<[u8; N], Malformed> {
    value.try_into().map_err(|_| Malformed)
}

fn boolean(value: &[u8]) -> Result<bool, Malformed> {
    match *value {
        [0] => Ok(false),
        [_] => Ok(true),
        _ => Err(Malformed),
    }
}

/// The content of a sequence of entries.
#[derive(Clone, Copy)]
struct Entries<'a> {
    content: &'a [u8],
}

impl<'a> Entries<'a> {
    /// Of a sequence that fills `der`.
    fn of(der: &'a [u8]) -> Option<Self> {
        match element(der)? {
            (SEQUENCE, content, []) => Some(Self { content }),
            _ => None,
        }
    }

    /// The value of the entry whose identifier is [`OID`] and `arcs`, if there is one; of another type than `tag` it is
    /// malformed.
    fn find(self, arcs: &[u8], tag: u8) -> Result<Option<&'a [u8]>, Malformed> {
        let mut rest = self.content;
        while !rest.is_empty() {
            let Some((SEQUENCE, entry, after)) = element(rest) else { return Err(Malformed) };
            let Some((OBJECT_IDENTIFIER, name, value)) = element(entry) else { return Err(Malformed) };
            let Some((actual, value, [])) = element(value) else { return Err(Malformed) };
            if name.strip_prefix(&OID) == Some(arcs) {
                return if actual == tag { Ok(Some(value)) } else { Err(Malformed) };
            }
            rest = after;
        }
        Ok(None)
    }

    fn required(self, arcs: &[u8], tag: u8) -> Option<&'a [u8]> {
        self.find(arcs, tag).ok().flatten()
    }
}

/// Tag, content and what follows. Contents here stay under 64 KiB.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => {
            let (&length, rest) = rest.split_first()?;
            (usize::from(length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    // The shortest form only.
    if (first == 0x81 && length < 0x80) || (first == 0x82 && length < 0x100) {
        return None;
    }
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

#[cfg(test)]
mod tests {
    use keyferry_tdx_quote::Quote;
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    const QUOTES: [&[u8]; 2] =
        [include_bytes!("../testdata/tdx/v4-uptodate/quote.bin"), include_bytes!("../testdata/tdx/v5-td15ex-uptodate/quote.bin")];

    /// Where the extension is in a certificate.
    fn range(leaf: &[u8]) -> std::ops::Range<usize> {
        let (_, certificate) = X509Certificate::from_der(leaf).unwrap();
        let extension = certificate.extensions().iter().find(|extension| extension.oid.as_bytes() == OID).unwrap();
        let start = extension.value.as_ptr() as usize - leaf.as_ptr() as usize;
        start..start + extension.value.len()
    }

    /// As the engine's parser, which knows nothing of ours, reads it.
    fn by_engine(leaf: &[u8]) -> Option<PckIdentity> {
        let engine = dcap_qvl::intel::parse_pck_extension(leaf).ok()?;
        Some(PckIdentity {
            ppid: engine.ppid,
            fmspc: engine.fmspc,
            pce_id: engine.pce_id,
            pce_svn: engine.pce_svn,
            cpu_svn: engine.cpu_svn,
            platform_instance_id: engine.platform_instance_id.and_then(|id| id.try_into().ok()),
            dynamic_platform: engine.dynamic_platform,
            cached_keys: engine.cached_keys,
            smt: engine.smt_enabled,
        })
    }

    #[test]
    fn real_certificates_read_as_the_engine_reads_them() {
        for bytes in QUOTES {
            let quote = Quote::parse(bytes).unwrap();
            let leaf = quote.certification().leaf();
            let extension = PckExtension::parse(&leaf[range(leaf)]).unwrap();
            assert_eq!(Some(extension.identity()), by_engine(leaf));
            assert_eq!(claimed_fmspc(leaf), Some(extension.fmspc));
            assert_eq!(extension.smt, Some(true));
        }
        assert_eq!(claimed_fmspc(&[]), None);
        assert_eq!(claimed_fmspc(&FMSPC_ENTRY), None);
    }

    /// Every byte of the extension, altered in several ways: what is read is what the engine reads, or nothing.
    #[test]
    fn no_altered_extension_reads_as_something_else_than_the_engine_reads() {
        for bytes in QUOTES {
            let quote = Quote::parse(bytes).unwrap();
            let leaf = quote.certification().leaf();
            for position in range(leaf) {
                for flip in [1, 2, 4, 0x20, 0x80, 0xff] {
                    let mut altered = leaf.to_vec();
                    altered[position] ^= flip;
                    if let Some(extension) = PckExtension::parse(&altered[range(leaf)]) {
                        assert_eq!(Some(extension.identity()), by_engine(&altered), "{position} {flip:#x}");
                    }
                }
            }
            let extension = &leaf[range(leaf)];
            assert!((0..extension.len()).all(|end| PckExtension::parse(&extension[..end]).is_none()));
        }
    }
}
