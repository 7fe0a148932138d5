//! The forms in which services send chains and revocation lists.

use http::HeaderMap;
use percent_encoding::percent_decode_str;

/// A chain has two or three certificates of less than 1 kB each.
const CHAIN_BYTES_MAX: usize = 16 * 1024;
/// Tag and first length byte of a DER sequence with a long length. Hex text of the same begins with the digits `30`.
const DER_SEQUENCE: u8 = 0x30;

/// The PEM chain in the first of the headers `names` that there is. It is percent-encoded: `+` is a plus of base64 and not
/// a blank.
pub(crate) fn issuer_chain(headers: &HeaderMap, names: &[&str]) -> Result<String, &'static str> {
    let value = names.iter().find_map(|name| headers.get(*name)).ok_or("the header with the issuer chain is missing")?;
    let text = value.to_str().map_err(|_| "the header with the issuer chain is not ASCII")?;
    let chain = percent_decode_str(text).decode_utf8().map_err(|_| "the issuer chain is not text")?;
    if chain.len() > CHAIN_BYTES_MAX {
        return Err("the issuer chain is too long");
    }
    if !chain.contains("-----BEGIN CERTIFICATE-----") {
        return Err("the issuer chain is not PEM");
    }
    Ok(chain.into_owned())
}

/// DER of a revocation list that came as DER, PEM or hex: services differ, whatever was asked for.
pub(crate) fn revocation_list(body: &[u8]) -> Result<Vec<u8>, &'static str> {
    if let [DER_SEQUENCE, length, ..] = body
        && *length >= 0x80
    {
        return Ok(body.to_vec());
    }
    let text = body.trim_ascii();
    if text.starts_with(b"-----BEGIN X509 CRL-----") {
        let block = pem::parse(text).map_err(|_| "a damaged PEM block")?;
        return Ok(block.into_contents());
    }
    hex::decode(text).map_err(|_| "neither DER nor PEM nor hex")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        [(http::HeaderName::from_static(name), value.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn a_plus_in_a_chain_stays_a_plus() {
        let encoded = "-----BEGIN%20CERTIFICATE-----%0AMIIC+a%2Bb%2F%3D%0A-----END%20CERTIFICATE-----%0A";
        let chain = issuer_chain(&headers("tcb-info-issuer-chain", encoded), &["TCB-Info-Issuer-Chain"]).unwrap();
        assert_eq!(chain, "-----BEGIN CERTIFICATE-----\nMIIC+a+b/=\n-----END CERTIFICATE-----\n");
    }

    #[test]
    fn what_is_no_chain_is_refused() {
        let names = ["tcb-info-issuer-chain"];
        assert!(issuer_chain(&HeaderMap::new(), &names).is_err());
        for bad in ["", "%ff%fe", "nonsense", &format!("-----BEGIN%20CERTIFICATE-----{}", "A".repeat(CHAIN_BYTES_MAX))] {
            assert!(issuer_chain(&headers("tcb-info-issuer-chain", bad), &names).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_revocation_list_comes_in_three_forms() {
        let der = [&[0x30, 0x82, 0x01, 0x00][..], &[7; 256]].concat();
        let text = hex::encode(&der);
        let pem = pem::encode(&pem::Pem::new("X509 CRL", der.clone()));
        for form in [&der[..], text.as_bytes(), text.to_uppercase().as_bytes(), format!("{text}\n").as_bytes(), pem.as_bytes()] {
            assert_eq!(revocation_list(form).unwrap(), der);
        }
        for bad in [&b""[..], b"<html>", b"-----BEGIN X509 CRL-----", b"308", b"{}"] {
            assert!(revocation_list(bad).is_err() || bad.is_empty(), "{bad:?}");
        }
    }
}
