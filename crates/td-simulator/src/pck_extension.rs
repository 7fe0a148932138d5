//! Intel's SGX extension of PCK certificates, 1.2.840.113741.1.13.1, as DER.
//!
//! Source: Intel "SGX PCK Certificate and Certificate Revocation List Profile Specification", section 1.3.5.

/// 1.2.840.113741.1.13.1.
pub(crate) const OID: [u64; 7] = [1, 2, 840, 113_741, 1, 13, 1];
/// The content of the same OID in DER.
const OID_BYTES: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01];

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const SEQUENCE: u8 = 0x30;
/// SGX type 1: scalable.
const SGX_TYPE_SCALABLE: u8 = 1;

/// What the extension says about a platform.
pub(crate) struct PckExtension {
    pub(crate) ppid: [u8; 16],
    pub(crate) cpu_svn: [u8; 16],
    pub(crate) pce_svn: u16,
    pub(crate) pce_id: [u8; 2],
    pub(crate) fmspc: [u8; 6],
    pub(crate) platform_instance_id: [u8; 16],
}

impl PckExtension {
    pub(crate) fn to_der(&self) -> Vec<u8> {
        let mut tcb: Vec<Vec<u8>> = (1..).zip(self.cpu_svn).map(|(arc, svn)| entry(&[2, arc], integer(svn.into()))).collect();
        tcb.push(entry(&[2, 17], integer(self.pce_svn)));
        tcb.push(entry(&[2, 18], tlv(OCTET_STRING, &self.cpu_svn)));
        // Dynamic platform, cached keys and SMT: all true on the real TDX platforms seen so far.
        let configuration: Vec<Vec<u8>> = (1..=3).map(|arc| entry(&[7, arc], tlv(BOOLEAN, &[0xff]))).collect();
        sequence(&[
            entry(&[1], tlv(OCTET_STRING, &self.ppid)),
            entry(&[2], sequence(&tcb)),
            entry(&[3], tlv(OCTET_STRING, &self.pce_id)),
            entry(&[4], tlv(OCTET_STRING, &self.fmspc)),
            entry(&[5], tlv(ENUMERATED, &[SGX_TYPE_SCALABLE])),
            entry(&[6], tlv(OCTET_STRING, &self.platform_instance_id)),
            entry(&[7], sequence(&configuration)),
        ])
    }
}

fn entry(arcs: &[u8], value: Vec<u8>) -> Vec<u8> {
    let oid = [OID_BYTES.as_slice(), arcs].concat();
    sequence(&[tlv(OBJECT_IDENTIFIER, &oid), value])
}

fn sequence(items: &[Vec<u8>]) -> Vec<u8> {
    tlv(SEQUENCE, &items.concat())
}

fn integer(value: u16) -> Vec<u8> {
    let [high, low] = value.to_be_bytes();
    match (high, low) {
        (0, 0..=0x7f) => tlv(INTEGER, &[low]),
        (0..=0x7f, _) => tlv(INTEGER, &[high, low]),
        _ => tlv(INTEGER, &[0, high, low]),
    }
}

/// Tag, length and value; the values here stay under 64 KiB.
fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let [.., high, low] = value.len().to_be_bytes();
    let head: &[u8] = match (high, low) {
        (0, 0..=0x7f) => &[tag, low],
        (0, _) => &[tag, 0x81, low],
        _ => &[tag, 0x82, high, low],
    };
    [head, value].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_integers_are_minimal_der() {
        assert_eq!(integer(0), [2, 1, 0]);
        assert_eq!(integer(127), [2, 1, 127]);
        assert_eq!(integer(128), [2, 2, 0, 128]);
        assert_eq!(integer(0x8000), [2, 3, 0, 0x80, 0]);
        assert_eq!(tlv(4, &[0; 128])[..3], [4, 0x81, 128]);
        assert_eq!(tlv(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
    }
}
