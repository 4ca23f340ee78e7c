//! How tokens become the text that is shown: whole characters, and nothing of what may be the beginning of a stop text.

use super::order::Text;
use crate::inference::model::Model;
use ailo_training::text::TextStream;

/// A text as it is shown. It depends on its tokens alone, so whoever has them can go on with it.
pub(super) struct Writing<'a> {
    stream: TextStream<'a>,
    /// What is not shown yet.
    held: String,
    stops: &'a [String],
    ends: &'a [u32],
}

impl<'a> Writing<'a> {
    /// What goes on with a text, until one of the stop texts comes. What was shown of it is not shown again.
    pub fn after(model: &'a Model, text: &Text, stops: &'a [String]) -> Writing<'a> {
        let stream = TextStream::after(&model.text, &text.prompt);
        let mut writing = Writing { stream, held: String::new(), stops, ends: &model.ends };
        text.written.iter().for_each(|token| drop(writing.push(*token)));
        writing
    }

    /// What a token lets be shown, and whether a stop text has come.
    pub fn push(&mut self, token: u32) -> (String, bool) {
        // What ends a text is no part of it.
        if !self.ends.contains(&token) {
            self.held.push_str(&self.stream.push(token));
        }
        if let Some(at) = first(self.stops, &self.held) {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = longest_beginning(&self.held, self.stops);
        (self.held.drain(..self.held.len() - keep).collect(), false)
    }

    /// What is left at the end, and whether a stop text has come in it.
    pub fn finish(self) -> (String, bool) {
        let mut rest = self.held + &self.stream.finish();
        let stop = first(self.stops, &rest);
        rest.truncate(stop.unwrap_or(rest.len()));
        (rest, stop.is_some())
    }
}

/// Where the first of the stop texts begins.
fn first(stops: &[String], text: &str) -> Option<usize> {
    stops.iter().filter_map(|stop| text.find(stop.as_str())).min()
}

/// Bytes at the end of `text` that one of the stop texts may begin with.
fn longest_beginning(text: &str, stops: &[String]) -> usize {
    let begins = |stop: &String| {
        let most = text.len().min(stop.len().saturating_sub(1));
        (1..=most).rev().find(|size| text.as_bytes().ends_with(&stop.as_bytes()[..*size])).unwrap_or(0)
    };
    let keep = stops.iter().map(begins).max().unwrap_or(0);
    // Never inside a character.
    (keep..=text.len()).find(|keep| text.is_char_boundary(text.len() - keep)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::inference::tests::one_layer;
    use ailo_proto::Sampling;

    #[test]
    fn a_stop_text_is_found_whose_characters_lie_in_several_tokens() {
        let folder = one_layer();
        let model = Model::open(folder.path(), None, None, &mut |_, _| ()).unwrap();
        let token = |byte: u8| (0..256).find(|token| model.text.bytes(*token) == [byte]).unwrap();
        let written = |text: &str, stops: &[String]| {
            let begin =
                Text { choice: 0, prompt: [token(b'>')].into(), written: Vec::new(), sampling: Sampling::default() };
            let (mut writing, mut shown) = (Writing::after(&model, &begin, stops), String::new());
            for byte in text.bytes() {
                let (more, stopped) = writing.push(token(byte));
                shown += &more;
                if stopped {
                    return (shown, true);
                }
            }
            let (rest, stopped) = writing.finish();
            (shown + &rest, stopped)
        };
        let stops = ["日本".to_string(), "é!".into()];
        assert_eq!(written("a 日é日本語", &stops), ("a 日é".into(), true));
        assert_eq!(written("a 日éé! b", &stops), ("a 日é".into(), true));
        assert_eq!(
            written("a 日é日", &stops),
            ("a 日é日".into(), false),
            "what only begins like one is shown at the end"
        );
    }
}
