//! The quote as a whole.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::layout::{
    ATTESTATION_KEY_BYTES, ATTESTATION_KEY_TYPE_ECDSA_P256, CERTIFICATION_TYPE_PCK_CHAIN, CERTIFICATION_TYPE_QE_REPORT,
    QE_AUTHENTICATION_DATA_BYTES, QE_VENDOR_ID_INTEL, QUOTE_BYTES_MAX, SIGNATURE_BYTES, TEE_TYPE_SGX, TEE_TYPE_TDX,
};
use crate::reader::Reader;
use crate::{BodyType, Certification, QeReport, QuoteError, TdReportBody};

/// A TDX quote that has been parsed, not verified. Clones share its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    bytes: Arc<[u8]>,
    signed_bytes: usize,
    header: Header,
    body_type: BodyType,
    body: TdReportBody,
    signature: Signature,
    certification: Certification,
}

/// What a quote header says beyond the constants every accepted quote shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 4 or 5.
    pub version: u16,
    /// The first 16 bytes name the platform's quoting enclave; zero on some clouds.
    pub user_data: [u8; 20],
}

/// The signatures of a quote and what they cover, the certificates apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Over [`Quote::signed_bytes`], by the attestation key: r and s, big-endian.
    pub quote: [u8; SIGNATURE_BYTES],
    /// The attestation key: x and y, big-endian.
    pub attestation_key: [u8; ATTESTATION_KEY_BYTES],
    /// The report that binds the attestation key to a quoting enclave.
    pub qe_report: QeReport,
    /// Over the QE report, by the PCK key.
    pub qe_report_signature: [u8; SIGNATURE_BYTES],
    /// Hashed with the attestation key into the QE report.
    pub qe_authentication_data: [u8; QE_AUTHENTICATION_DATA_BYTES],
}

impl Quote {
    /// Parses a quote as a platform returns it. The input may end in zero bytes, in nothing else.
    pub fn parse(bytes: &[u8]) -> Result<Self, QuoteError> {
        if bytes.len() > QUOTE_BYTES_MAX {
            return Err(QuoteError::TooLarge { bytes: bytes.len(), max: QUOTE_BYTES_MAX });
        }
        let mut reader = Reader::new(bytes);
        let (header, tee_type) = Header::read(&mut reader)?;
        let body_type = read_body_type(&mut reader, header.version, tee_type)?;
        let body = TdReportBody::read(&mut reader, body_type)?;
        let signed_bytes = reader.offset();
        let (signature, certification) = read_signature_section(&mut reader)?;
        let end = reader.offset();
        let (quote, tail) = bytes.split_at(end);
        if let Some(position) = tail.iter().position(|byte| *byte != 0) {
            return Err(QuoteError::Tail { offset: end + position });
        }
        Ok(Self { bytes: quote.into(), signed_bytes, header, body_type, body, signature, certification })
    }

    /// The header.
    pub const fn header(&self) -> &Header {
        &self.header
    }
    /// Which kind of body the quote carries.
    pub const fn body_type(&self) -> BodyType {
        self.body_type
    }
    /// The TD's report.
    pub const fn body(&self) -> &TdReportBody {
        &self.body
    }
    /// The signatures and what they cover.
    pub const fn signature(&self) -> &Signature {
        &self.signature
    }
    /// The PCK certificate chain.
    pub const fn certification(&self) -> &Certification {
        &self.certification
    }
    /// What the attestation key signed: header, body descriptor (version 5) and body.
    pub fn signed_bytes(&self) -> &[u8] {
        self.bytes.get(..self.signed_bytes).unwrap_or_default()
    }
    /// The quote without the zero tail: what to store and to hand on.
    pub fn without_tail(&self) -> &[u8] {
        &self.bytes
    }
    /// SHA-256 of the signed range: the quote's identity. A hash of the raw bytes would be none, because tail, PEM text
    /// and signature encodings can vary without a change of meaning.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.signed_bytes()).into()
    }
}

impl Header {
    fn read(reader: &mut Reader<'_>) -> Result<(Self, u32), QuoteError> {
        let version = reader.u16("version")?;
        if !matches!(version, 4 | 5) {
            return Err(QuoteError::Version(version));
        }
        let key_type = reader.u16("attestation key type")?;
        if key_type != ATTESTATION_KEY_TYPE_ECDSA_P256 {
            return Err(QuoteError::AttestationKeyType(key_type));
        }
        let tee_type = reader.u32("TEE type")?;
        if !matches!(tee_type, TEE_TYPE_TDX | TEE_TYPE_SGX) {
            return Err(QuoteError::TeeType(tee_type));
        }
        // Reserved today, SVNs in older documents: signed, zero in the field, and used by nobody.
        reader.take("reserved header bytes", 4)?;
        if reader.array("QE vendor id")? != QE_VENDOR_ID_INTEL {
            return Err(QuoteError::QeVendorId);
        }
        Ok((Self { version, user_data: reader.array("user data")? }, tee_type))
    }
}

fn read_body_type(reader: &mut Reader<'_>, version: u16, tee_type: u32) -> Result<BodyType, QuoteError> {
    if version == 4 {
        return if tee_type == TEE_TYPE_TDX { Ok(BodyType::Td10) } else { Err(QuoteError::Sgx) };
    }
    let number = reader.u16("body type")?;
    let declared = reader.u32("body size")?;
    let body_type = match (number, tee_type) {
        (1, TEE_TYPE_SGX) => return Err(QuoteError::Sgx),
        (1, _) | (2..=4, TEE_TYPE_SGX) => return Err(QuoteError::BodyOfOtherTee { tee_type, body_type: number }),
        (2, _) => BodyType::Td10,
        (3, _) => BodyType::Td15,
        (4, _) => BodyType::Td15Ex,
        _ => return Err(QuoteError::BodyType(number)),
    };
    if usize::try_from(declared) != Ok(body_type.bytes()) {
        return Err(QuoteError::BodySize { body_type: number, declared, wanted: body_type.bytes() });
    }
    Ok(body_type)
}

/// The signature section: every declared size must end exactly where its content ends, so no byte hides between.
fn read_signature_section(reader: &mut Reader<'_>) -> Result<(Signature, Certification), QuoteError> {
    let section = read_sized(reader, "signature section")?;
    let quote = section.reader.array("quote signature")?;
    let attestation_key = section.reader.array("attestation key")?;
    let outer_type = section.reader.u16("outer certification type")?;
    if outer_type != CERTIFICATION_TYPE_QE_REPORT {
        return Err(QuoteError::OuterCertificationType(outer_type));
    }
    let outer = read_sized(section.reader, "QE report certification data")?;
    let qe_report = QeReport::read(outer.reader)?;
    let qe_report_signature = outer.reader.array("QE report signature")?;
    let auth_size = outer.reader.u16("QE authentication data size")?;
    if usize::from(auth_size) != QE_AUTHENTICATION_DATA_BYTES {
        return Err(QuoteError::QeAuthenticationDataSize(auth_size));
    }
    let qe_authentication_data = outer.reader.array("QE authentication data")?;
    let inner_type = outer.reader.u16("inner certification type")?;
    if inner_type != CERTIFICATION_TYPE_PCK_CHAIN {
        return Err(QuoteError::InnerCertificationType(inner_type));
    }
    let inner_size = outer.reader.size("inner certification size")?;
    let certification = Certification::parse(outer.reader.take("PCK certificate chain", inner_size)?)?;
    let signature = Signature { quote, attestation_key, qe_report, qe_report_signature, qe_authentication_data };
    outer.end.check(outer.reader)?;
    section.end.check(section.reader)?;
    Ok((signature, certification))
}

struct Sized<'r, 'a> {
    reader: &'r mut Reader<'a>,
    end: SectionEnd,
}

#[derive(Clone, Copy)]
struct SectionEnd {
    field: &'static str,
    start: usize,
    declared: usize,
}

fn read_sized<'r, 'a>(reader: &'r mut Reader<'a>, field: &'static str) -> Result<Sized<'r, 'a>, QuoteError> {
    let declared = reader.size(field)?;
    let end = SectionEnd { field, start: reader.offset(), declared };
    Ok(Sized { reader, end })
}

impl SectionEnd {
    fn check(self, reader: &Reader<'_>) -> Result<(), QuoteError> {
        let actual = reader.offset() - self.start;
        if actual == self.declared {
            return Ok(());
        }
        Err(QuoteError::SectionSize { field: self.field, declared: self.declared, actual })
    }
}
