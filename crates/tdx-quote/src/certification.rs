//! The PCK certificate chain inside a quote: strict PEM, exactly three certificates.
//!
//! PEM readers are lenient by habit (other line breaks, text between blocks), which makes one chain out of many texts.
//! Here a chain is base64 lines between the two marker lines and nothing else; the certificates are compared and hashed
//! as DER, never as text.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::QuoteError;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
/// PCK leaf, intermediate and root.
const CERTIFICATES: usize = 3;

/// Room for the base64 of one certificate: real ones have about 1700 characters.
const BASE64_BYTES: usize = 2048;

/// The PCK certificate chain of a quote, parsed from PEM to DER but not verified. Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certification {
    pem: Arc<str>,
    certificates: Arc<[Vec<u8>; CERTIFICATES]>,
}

impl Certification {
    /// The PEM text without the NUL that most platforms append.
    pub fn pem(&self) -> &str {
        &self.pem
    }
    /// DER of the PCK leaf certificate.
    pub fn leaf(&self) -> &[u8] {
        &self.certificates[0]
    }
    /// DER of the platform or processor CA.
    pub fn intermediate(&self) -> &[u8] {
        &self.certificates[1]
    }
    /// DER of the root certificate as the quote carries it: to be compared with a pinned one, never trusted.
    pub fn root(&self) -> &[u8] {
        &self.certificates[2]
    }

    pub(crate) fn parse(data: &[u8]) -> Result<Self, QuoteError> {
        let text = data.strip_suffix(&[0]).unwrap_or(data);
        let pem = std::str::from_utf8(text).map_err(|_| QuoteError::PckChain("not ASCII text"))?;
        let certificates: [Vec<u8>; CERTIFICATES] =
            blocks(pem)?.try_into().map_err(|_| QuoteError::PckChain("not three certificates: leaf, intermediate and root are wanted"))?;
        Ok(Self { pem: pem.into(), certificates: Arc::new(certificates) })
    }
}

fn blocks(pem: &str) -> Result<Vec<Vec<u8>>, QuoteError> {
    let text = pem.strip_suffix('\n').ok_or(QuoteError::PckChain("does not end with a line feed"))?;
    let mut certificates = Vec::new();
    let mut open: Option<String> = None;
    for line in text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)) {
        match (line, open.take()) {
            (BEGIN, None) => open = Some(String::with_capacity(BASE64_BYTES)),
            (END, Some(base64)) => certificates.push(decode(&base64)?),
            (_, None) => return Err(QuoteError::PckChain("text outside a certificate")),
            (line, Some(mut base64)) => {
                base64.push_str(line);
                open = Some(base64);
            }
        }
        if certificates.len() > CERTIFICATES {
            return Err(QuoteError::PckChain("more than three certificates"));
        }
    }
    if open.is_some() { Err(QuoteError::PckChain("a certificate without its end line")) } else { Ok(certificates) }
}

fn decode(base64: &str) -> Result<Vec<u8>, QuoteError> {
    match STANDARD.decode(base64) {
        Ok(der) if !der.is_empty() => Ok(der),
        _ => Err(QuoteError::PckChain("a certificate that is not base64")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(separator: &str) -> String {
        ["AAEC", "AwQF\nBgcI", "CQoL"].map(|base64| format!("{BEGIN}\n{base64}\n{END}{separator}")).concat()
    }

    #[test]
    fn a_trailing_nul_is_accepted_once() {
        let plain = Certification::parse(chain("\n").as_bytes()).unwrap();
        let with_nul = Certification::parse(format!("{}\0", chain("\n")).as_bytes()).unwrap();
        assert_eq!(plain, with_nul);
        assert_eq!(plain.intermediate(), [3, 4, 5, 6, 7, 8]);
        assert!(Certification::parse(format!("{}\0\0", chain("\n")).as_bytes()).is_err());
    }

    #[test]
    fn text_that_is_not_exactly_three_certificates_is_refused() {
        let good = chain("\n");
        let one = format!("{BEGIN}\nAAEC\n{END}\n");
        for bad in [
            String::new(),
            one.clone(),
            format!("{good}{one}"),
            format!("x\n{good}"),
            format!("{good}x\n"),
            chain("\x0b"),
            good.replace("AAEC", "AA\x0bEC"),
            good.replace("AAEC", "A"),
            good.trim_end().to_owned(),
            good.replace(END, "-----END X-----"),
            format!("{BEGIN}\n{good}"),
        ] {
            assert!(matches!(Certification::parse(bad.as_bytes()), Err(QuoteError::PckChain(_))), "{bad:?}");
        }
    }
}
