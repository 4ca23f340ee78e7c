//! Text to tokens and back: one token a byte, or GPT-2's byte-pair encoding (the vocabulary is embedded).

use crate::error::{Result, TrainingError};
use ailo_protocol::params::Tokenizer;
use tiktoken_rs::{CoreBPE, r50k_base_singleton};

/// GPT-2's token for the end of a text.
pub const GPT2_END_OF_TEXT: u16 = 50_256;

fn gpt2() -> &'static CoreBPE {
    r50k_base_singleton()
}

/// Tokens of `text`; `name` names it in errors. GPT-2's tokenizer takes UTF-8 only.
pub fn encode(tokenizer: Tokenizer, name: &str, text: &[u8]) -> Result<Vec<u16>> {
    match tokenizer {
        Tokenizer::Bytes => Ok(text.iter().map(|&b| u16::from(b)).collect()),
        Tokenizer::Gpt2 => {
            let text = std::str::from_utf8(text)
                .map_err(|e| TrainingError::NotUtf8 { name: name.into(), offset: e.valid_up_to() })?;
            Ok(gpt2().encode_ordinary(text).into_iter().map(|token| token as u16).collect())
        }
    }
}

/// Bytes of one token; none for a token outside the vocabulary.
pub fn token_bytes(tokenizer: Tokenizer, token: u16) -> Vec<u8> {
    match tokenizer {
        Tokenizer::Bytes => u8::try_from(token).map(|b| vec![b]).unwrap_or_default(),
        Tokenizer::Gpt2 => gpt2().decode_bytes(&[u32::from(token)]).unwrap_or_default(),
    }
}

/// The text of `tokens`, with U+FFFD for bytes that are no UTF-8: a token of either may end inside a character.
pub fn decode(tokenizer: Tokenizer, tokens: &[u16]) -> String {
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| token_bytes(tokenizer, *token)).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEXT: &str = "To be, or not to be — that is the question: näïve 日本語 🦀\n";

    #[test]
    fn decoding_returns_the_encoded_text() {
        for tokenizer in [Tokenizer::Bytes, Tokenizer::Gpt2] {
            let tokens = encode(tokenizer, "text", TEXT.as_bytes()).unwrap();
            assert!(tokens.iter().all(|&t| u32::from(t) < tokenizer.vocabulary()));
            assert_eq!(decode(tokenizer, &tokens), TEXT);
        }
    }

    #[test]
    fn gpt2_tokens_are_those_of_the_published_vocabulary() {
        assert_eq!(encode(Tokenizer::Gpt2, "text", b"Hello world").unwrap(), [15496, 995]);
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_as_such() {
        let tokens = [0xff, 0xf0, u16::from(b'a'), 0xf0, 0x9f, 0xa6];
        assert_eq!(decode(Tokenizer::Bytes, &tokens), "\u{fffd}\u{fffd}a\u{fffd}");
    }

    #[test]
    fn a_token_outside_the_vocabulary_has_no_text() {
        assert_eq!(decode(Tokenizer::Bytes, &[300]), "");
        assert_eq!(decode(Tokenizer::Gpt2, &[60_000]), "");
    }

    #[test]
    fn gpt2_refuses_bytes_that_are_no_text_and_says_where() {
        let error = encode(Tokenizer::Gpt2, "notes.txt", b"ab\xff").unwrap_err().to_string();
        assert!(error.contains("notes.txt") && error.contains("at 2"), "{error}");
    }
}
