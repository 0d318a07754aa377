//! The text of a Bodhi token, checked without asking anybody.
//!
//! `bodhi_`, then 32 random bytes as 43 characters of base64url (RFC 4648 §5, no
//! padding), then a checksum of 6 characters: the CRC-32 (IEEE 802.3) of the 49
//! characters before it, as base62 (`0-9A-Za-z`, most significant digit first,
//! padded with `0`). 62⁶ exceeds 2³², so every checksum fits.
//!
//! The checksum tells a mistyped or truncated token from an unknown one, and lets
//! secret scanners report real tokens only. It proves nothing: what a token may do
//! is looked up by its [`TokenHash`].

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::secret::Secret;
use crate::snapshot::TokenHash;

/// What every token begins with.
pub const PREFIX: &str = "bodhi_";
/// Bytes of a whole token: prefix, 43 random characters, 6 of checksum.
pub const LEN: usize = PREFIX.len() + BODY_LEN + CHECKSUM_LEN;

const BODY_LEN: usize = 43;
const CHECKSUM_LEN: usize = 6;
const CHECKED_LEN: usize = LEN - CHECKSUM_LEN;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Why a text cannot be a token. Never holds any of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenTextError {
    /// It does not begin with [`PREFIX`]. It may still be a static key or a JWT.
    #[error("a Bodhi token begins with '{PREFIX}'")]
    Prefix,
    /// Not [`LEN`] bytes.
    #[error("a Bodhi token has {LEN} characters; this one has {0}")]
    Length(usize),
    /// A character outside base64url in the random part.
    #[error("the token holds a character that no Bodhi token has")]
    Character,
    /// The checksum is that of another text.
    #[error("the token's checksum does not match: it was cut or mistyped")]
    Checksum,
}

/// Spells a new token. `random` must come from the operating system's generator.
pub fn generate(random: &Zeroizing<[u8; 32]>) -> Secret {
    let mut text = Zeroizing::new(String::with_capacity(LEN));
    text.push_str(PREFIX);
    URL_SAFE_NO_PAD.encode_string(random.as_slice(), &mut text);
    let checksum = checksum(text.as_bytes());
    text.extend(checksum.map(char::from));
    Secret::new(text.as_str())
}

/// Checks a presented text's form and checksum and hashes it for the lookup.
pub fn parse(text: &[u8]) -> Result<TokenHash, TokenTextError> {
    if !text.starts_with(PREFIX.as_bytes()) {
        return Err(TokenTextError::Prefix);
    }
    if text.len() != LEN {
        return Err(TokenTextError::Length(text.len()));
    }
    let (checked, given) = text.split_at(CHECKED_LEN);
    let base64url = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if !checked[PREFIX.len()..].iter().all(base64url) {
        return Err(TokenTextError::Character);
    }
    if given != checksum(checked) {
        return Err(TokenTextError::Checksum);
    }
    Ok(TokenHash::of(text))
}

fn checksum(checked: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut rest = crc32fast::hash(checked) as usize;
    let mut digits = [b'0'; CHECKSUM_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[rest % BASE62.len()];
        rest /= BASE62.len();
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(fill: u8) -> Secret {
        generate(&Zeroizing::new([fill; 32]))
    }

    #[test]
    fn the_text_form_is_fixed() {
        // Computed apart from this code: base64url of 32 zero bytes; zlib's CRC-32 of the
        // first 49 characters is 0xA44EA487.
        let text = token(0);
        assert_eq!(
            text.expose(),
            "bodhi_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA30YU6B"
        );
        assert_eq!(text.expose().len(), LEN);
        assert_eq!(
            parse(text.expose().as_bytes()),
            Ok(TokenHash::of(text.expose().as_bytes()))
        );
    }

    #[test]
    fn what_is_not_a_token_says_why() {
        let good = token(7).expose().to_owned();
        assert_eq!(parse(b""), Err(TokenTextError::Prefix));
        assert_eq!(parse(b"sk-abc"), Err(TokenTextError::Prefix));
        assert_eq!(parse(b"BODHI_x"), Err(TokenTextError::Prefix));
        assert_eq!(parse(b"bodhi_"), Err(TokenTextError::Length(6)));
        assert_eq!(
            parse(&good.as_bytes()[..54]),
            Err(TokenTextError::Length(54))
        );
        assert_eq!(
            parse(format!("{good}\n").as_bytes()),
            Err(TokenTextError::Length(56))
        );
        let mut bad = good.into_bytes();
        bad[10] = b'+';
        assert_eq!(parse(&bad), Err(TokenTextError::Character));
    }

    proptest! {
        #[test]
        fn every_generated_token_parses_and_every_changed_byte_is_noticed(
            random: [u8; 32], at in PREFIX.len()..LEN, other: u8,
        ) {
            let text = generate(&Zeroizing::new(random));
            let mut bytes = text.expose().as_bytes().to_vec();
            prop_assert!(parse(&bytes).is_ok());
            prop_assume!(bytes[at] != other);
            bytes[at] = other;
            prop_assert!(parse(&bytes).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
