//! Two quotes of real platforms, whole, cut and altered.

use keyferry_tdx_quote::layout::{QUOTE_BYTES_MAX, td_report};
use keyferry_tdx_quote::{BodyType, Quote, QuoteError, TdAttributes};
use proptest::prelude::*;

const V4: &[u8] = include_bytes!("../../dcap/testdata/tdx/v4-uptodate/quote.bin");
const V5: &[u8] = include_bytes!("../../dcap/testdata/tdx/v5-td15ex-uptodate/quote.bin");
/// Where the signature section starts.
const V4_SIGNATURE: usize = 632;
const V5_SIGNATURE: usize = 939;

fn patched(quote: &[u8], offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut quote = quote.to_vec();
    quote[offset..offset + bytes.len()].copy_from_slice(bytes);
    quote
}

fn u32_at(quote: &[u8], offset: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&quote[offset..offset + 4]);
    u32::from_le_bytes(bytes)
}

#[test]
fn the_version_4_quote_reads_as_published() {
    let quote = Quote::parse(V4).unwrap();
    let body = quote.body();
    assert_eq!((quote.header().version, quote.body_type()), (4, BodyType::Td10));
    assert_eq!(quote.signed_bytes(), &V4[..V4_SIGNATURE]);
    assert_eq!(quote.without_tail().len(), 4936);
    assert_eq!(hex::encode(body.tee_tcb_svn), "06010300000000000000000000000000");
    assert_eq!(body.td_attributes, TdAttributes::SEPT_VE_DISABLE);
    assert_eq!(body.xfam.to_string(), "e702060000000000");
    assert_eq!(hex::encode(body.mr_td), "91eb2b44d141d4ece09f0c75c2c53d247a3c68edd7fafe8a3520c942a604a407de03ae6dc5f87f27428b2538873118b7");
    assert!(hex::encode(body.mr_seam).starts_with("5b38e33a6487958b"));
    assert!(hex::encode(body.rtmrs[0]).starts_with("44c0197b39157fdd"));
    assert_eq!(body.rtmrs[3], [0; 48]);
    assert!(hex::encode(body.report_data).starts_with("9a9d48e7f6799642"));
    assert_eq!((body.tee_tcb_svn2, body.mr_service_td, body.td_id), (None, None, None));
    assert_eq!((quote.signature().qe_report.isv_prod_id(), quote.signature().qe_report.isv_svn()), (2, 6));
    assert!(!quote.signature().qe_report.debug());
    assert!(!body.has_service_td());
    assert_eq!(quote.certification().root(), include_bytes!("../../dcap/testdata/tdx/intel-sgx-root-ca.der"));
}

#[test]
fn the_version_5_quote_reads_as_published() {
    let quote = Quote::parse(V5).unwrap();
    let body = quote.body();
    assert_eq!((quote.header().version, quote.body_type()), (5, BodyType::Td15Ex));
    assert_eq!(quote.signed_bytes(), &V5[..V5_SIGNATURE]);
    assert_eq!(quote.without_tail(), V5);
    assert_eq!(hex::encode(body.tee_tcb_svn), "0f010400000000000000000000000000");
    assert_eq!(body.tee_tcb_svn2, Some(body.tee_tcb_svn));
    assert_eq!(body.mr_service_td, Some([0; 48]));
    assert!(body.td_id.is_some_and(|id| id != [0; 32]));
    assert!(hex::encode(body.rtmrs[3]).starts_with("556d4986cae57e7e"));
    assert_eq!(quote.signature().qe_report.isv_svn(), 8);
    assert_eq!(quote.certification().root(), include_bytes!("../../dcap/testdata/tdx/intel-sgx-root-ca.der"));
}

#[test]
fn a_tail_may_only_be_zero() {
    let quote = Quote::parse(V4).unwrap();
    let exact = quote.without_tail();
    for zeros in [0, 1, 70, 3065] {
        let padded = [exact, &vec![0; zeros][..]].concat();
        let again = Quote::parse(&padded).unwrap();
        assert_eq!((again.digest(), again.without_tail()), (quote.digest(), exact));
    }
    let glued = [exact, &[0, 0, 7]].concat();
    assert_eq!(Quote::parse(&glued), Err(QuoteError::Tail { offset: exact.len() + 2 }));
}

#[test]
fn oversized_input_is_refused_before_parsing() {
    let huge = vec![0; QUOTE_BYTES_MAX + 1];
    assert_eq!(Quote::parse(&huge), Err(QuoteError::TooLarge { bytes: QUOTE_BYTES_MAX + 1, max: QUOTE_BYTES_MAX }));
}

#[test]
fn every_header_field_has_its_own_refusal() {
    assert_eq!(Quote::parse(&patched(V4, 0, &[3, 0])), Err(QuoteError::Version(3)));
    assert_eq!(Quote::parse(&patched(V4, 2, &[3, 0])), Err(QuoteError::AttestationKeyType(3)));
    assert_eq!(Quote::parse(&patched(V4, 4, &[0x82])), Err(QuoteError::TeeType(0x82)));
    assert_eq!(Quote::parse(&patched(V4, 4, &[0])), Err(QuoteError::Sgx));
    assert_eq!(Quote::parse(&patched(V4, 12, &[0])), Err(QuoteError::QeVendorId));
}

#[test]
fn tee_type_body_type_and_size_must_agree() {
    let tdx = 0x81;
    assert_eq!(Quote::parse(&patched(V5, 48, &[1, 0])), Err(QuoteError::BodyOfOtherTee { tee_type: tdx, body_type: 1 }));
    assert_eq!(Quote::parse(&patched(V5, 4, &[0])), Err(QuoteError::BodyOfOtherTee { tee_type: 0, body_type: 4 }));
    assert_eq!(Quote::parse(&patched(&patched(V5, 4, &[0]), 48, &[1, 0])), Err(QuoteError::Sgx));
    assert_eq!(Quote::parse(&patched(V5, 48, &[5, 0])), Err(QuoteError::BodyType(5)));
    assert_eq!(Quote::parse(&patched(V5, 48, &[3, 0])), Err(QuoteError::BodySize { body_type: 3, declared: 885, wanted: 648 }));
    assert_eq!(
        Quote::parse(&patched(V5, 50, &886_u32.to_le_bytes())),
        Err(QuoteError::BodySize { body_type: 4, declared: 886, wanted: 885 })
    );
}

#[test]
fn a_15_body_parses_where_it_ends() {
    // The 1.5ex quote cut down to a 1.5 body: the signature breaks, the layout does not.
    let body_end = 54 + td_report::VM_ID;
    let mut quote = [&V5[..body_end], &V5[V5_SIGNATURE..]].concat();
    quote[48..54].copy_from_slice(&[3, 0, 0x88, 2, 0, 0]);
    let quote = Quote::parse(&quote).unwrap();
    assert_eq!((quote.body_type(), quote.signed_bytes().len()), (BodyType::Td15, 702));
    assert_eq!(quote.body().td_id, None);
    assert!(quote.body().tee_tcb_svn2.is_some());
}

#[test]
fn nothing_hides_between_declared_sizes_and_content() {
    let size = u32_at(V4, V4_SIGNATURE);
    let actual = usize::try_from(size).unwrap();
    let longer = patched(V4, V4_SIGNATURE, &(size + 1).to_le_bytes());
    assert_eq!(Quote::parse(&longer), Err(QuoteError::SectionSize { field: "signature section", declared: actual + 1, actual }));
    let outer = u32_at(V4, 766);
    let shorter = patched(V4, 766, &(outer - 1).to_le_bytes());
    assert!(matches!(Quote::parse(&shorter), Err(QuoteError::SectionSize { field: "QE report certification data", .. })));
    assert_eq!(Quote::parse(&patched(V4, 764, &[5, 0])), Err(QuoteError::OuterCertificationType(5)));
    assert_eq!(Quote::parse(&patched(V4, 1252, &[3, 0])), Err(QuoteError::InnerCertificationType(3)));
    assert_eq!(Quote::parse(&patched(V4, 1218, &[31, 0])), Err(QuoteError::QeAuthenticationDataSize(31)));
    let inner = u32_at(V4, 1254);
    assert!(matches!(Quote::parse(&patched(V4, 1254, &(inner - 2).to_le_bytes())), Err(QuoteError::PckChain(_))));
    assert!(matches!(Quote::parse(&patched(V4, 1254, &[0xff; 4])), Err(QuoteError::Truncated { field: "PCK certificate chain", .. })));
}

#[test]
fn every_truncation_is_refused() {
    for quote in [V4, V5] {
        let exact = Quote::parse(quote).unwrap().without_tail().len();
        for length in 0..exact {
            assert!(Quote::parse(&quote[..length]).is_err(), "{length}");
        }
    }
}

#[test]
fn the_digest_names_the_signed_range_only() {
    let quote = Quote::parse(V4).unwrap();
    let other_signature = patched(V4, V4_SIGNATURE + 4, &[0x55]);
    assert_eq!(Quote::parse(&other_signature).unwrap().digest(), quote.digest());
    let other_body = patched(V4, 568, &[0x55]);
    assert_ne!(Quote::parse(&other_body).unwrap().digest(), quote.digest());
}

proptest! {
    #[test]
    fn any_bytes_parse_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        drop(Quote::parse(&bytes));
    }

    #[test]
    fn mutated_quotes_parse_or_are_refused(
        v5 in any::<bool>(),
        edits in proptest::collection::vec((0usize..6000, any::<u8>()), 1..8),
        length in 0usize..6000,
    ) {
        let mut bytes = if v5 { V5.to_vec() } else { V4.to_vec() };
        for (offset, byte) in edits {
            let offset = offset % bytes.len();
            bytes[offset] = byte;
        }
        bytes.truncate(length);
        if let Ok(quote) = Quote::parse(&bytes) {
            // What parses is a prefix of the input, and parses to the same value again.
            prop_assert!(bytes.starts_with(quote.without_tail()));
            prop_assert_eq!(Quote::parse(quote.without_tail()).unwrap(), quote);
        }
    }
}
