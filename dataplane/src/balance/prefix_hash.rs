//! Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, 2016) over
//! rendezvous hashing: each prompt has its own order of the workers, and takes the first that
//! is not too busy. A worker that comes or goes moves only its own share of the prompts.

use std::hash::{BuildHasher as _, Hasher as _};

use bodhi_proto::chat::{AssistantPart, Conversation, Message, Part, Prompt, Text};
use foldhash::fast::FixedState;

use super::Candidate;

/// As much of a prompt as decides, in bytes: what system prompts and tools share, without the
/// part in which every request differs.
const HEAD: usize = 1024;

/// The same on every data plane and after every restart.
const SEED: u64 = 0x00b0_d41d;

/// What a prompt begins with, as a hash.
/// The default is that of prompts that no cache would help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Head(u64);

/// The head of a prompt: of a conversation up to its first user message, so that later turns
/// meet the cache of the earlier ones.
pub fn head_of(prompt: &Prompt) -> Head {
    let mut head = Hasher {
        inner: FixedState::with_seed(SEED).build_hasher(),
        left: HEAD,
    };
    match prompt {
        Prompt::Conversation(conversation) => head.conversation(conversation),
        Prompt::Raw(raw) => head.text(&raw.prompt),
    }
    Head(head.inner.finish())
}

struct Hasher {
    inner: foldhash::fast::FoldHasher<'static>,
    left: usize,
}

impl Hasher {
    fn bytes(&mut self, bytes: &[u8]) {
        let taken = &bytes[..bytes.len().min(self.left)];
        self.left -= taken.len();
        self.inner.write(taken);
        // Two texts are not the same as their concatenation.
        self.inner.write_u8(0xff);
    }

    fn text(&mut self, text: &Text) {
        match text {
            Text::Plain(text) => self.bytes(text.as_bytes()),
            Text::Tokens(tokens) => {
                for token in tokens.iter().take(HEAD / 4) {
                    self.inner.write_u32(*token);
                }
            }
        }
    }

    fn conversation(&mut self, conversation: &Conversation) {
        for message in &conversation.messages {
            match message {
                Message::System(parts) => self.parts(parts),
                Message::User { content, .. } => return self.parts(content),
                Message::Tool { content, .. } => self.parts(content),
                Message::Assistant(parts) => {
                    for part in parts {
                        if let AssistantPart::Text(text) = part {
                            self.bytes(text.as_bytes());
                        }
                    }
                }
            }
        }
    }

    fn parts(&mut self, parts: &[Part]) {
        for part in parts {
            if let Part::Text(text) = part {
                self.bytes(text.as_bytes());
            }
        }
    }
}

/// The first worker in the prompt's own order whose load, this request included, is at most
/// `percent` of the mean; there always is one, since `percent` is at least 100.
pub(super) fn choose(head: Head, percent: u32, candidates: &[Candidate<'_>]) -> Option<usize> {
    let score = |worker: &Candidate<'_>| {
        let mut hasher = FixedState::with_seed(head.0).build_hasher();
        hasher.write(worker.id.as_bytes());
        hasher.finish()
    };
    let loads = candidates.iter().map(|w| u64::from(w.load)).sum::<u64>() + 1;
    let slots = candidates.iter().map(|w| u64::from(w.slots)).sum::<u64>();
    // A worker's fair share of the load grows with its slots.
    let bound = |worker: &Candidate<'_>| {
        let share = loads * u64::from(worker.slots) * u64::from(percent);
        share.div_ceil(slots.max(1) * 100)
    };
    (0..candidates.len())
        .filter(|n| u64::from(candidates[*n].load) < bound(&candidates[*n]))
        .max_by_key(|n| score(&candidates[*n]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodhi_proto::chat::RawPrompt;

    fn workers<'a>(ids: &'a [String], loads: &[u32]) -> Vec<Candidate<'a>> {
        ids.iter()
            .zip(loads)
            .map(|(id, load)| Candidate {
                id,
                load: *load,
                slots: 4,
            })
            .collect()
    }

    fn ids(n: usize) -> Vec<String> {
        (0..n).map(|n| format!("worker-{n}")).collect()
    }

    fn raw(text: &str) -> Head {
        head_of(&Prompt::Raw(RawPrompt {
            prompt: Text::Plain(text.into()),
            suffix: None,
            echo: false,
        }))
    }

    fn chat(turns: &[(&str, &str)]) -> Head {
        let messages = turns.iter().map(|(role, text)| {
            let content = vec![Part::Text((*text).into())];
            match *role {
                "system" => Message::System(content),
                "user" => Message::User {
                    name: None,
                    content,
                },
                _ => Message::Assistant(vec![AssistantPart::Text((*text).into())]),
            }
        });
        head_of(&Prompt::Conversation(Conversation {
            messages: messages.collect(),
            ..Conversation::default()
        }))
    }

    #[test]
    fn later_turns_of_a_conversation_have_its_head() {
        let first = chat(&[("system", "Be brief."), ("user", "Hello")]);
        let later = chat(&[
            ("system", "Be brief."),
            ("user", "Hello"),
            ("assistant", "Hi!"),
            ("user", "And now?"),
        ]);
        assert_eq!(first, later);
        assert_ne!(first, chat(&[("system", "Be brief."), ("user", "Bye")]));
        assert_ne!(first, chat(&[("system", "Be brief.Hello"), ("user", "")]));
    }

    #[test]
    fn only_the_head_decides() {
        let long = "x".repeat(HEAD);
        assert_eq!(raw(&format!("{long}a")), raw(&format!("{long}b")));
        assert_ne!(raw("a"), raw("b"));
    }

    #[test]
    fn prompts_stay_with_their_worker_and_spread_over_all() {
        let ids = ids(5);
        let mut counts = [0_u32; 5];
        for n in 0..2000 {
            let head = raw(&format!("prompt {n}"));
            let chosen = choose(head, 125, &workers(&ids, &[0; 5])).unwrap();
            assert_eq!(choose(head, 125, &workers(&ids, &[0; 5])), Some(chosen));
            counts[chosen] += 1;
        }
        assert!(counts.iter().all(|n| (300..500).contains(n)), "{counts:?}");
    }

    #[test]
    fn a_worker_that_goes_moves_only_its_own_prompts() {
        let all = ids(5);
        let four = all[..4].to_vec();
        for n in 0..500 {
            let head = raw(&format!("prompt {n}"));
            let before = choose(head, 125, &workers(&all, &[0; 5])).unwrap();
            let after = choose(head, 125, &workers(&four, &[0; 4])).unwrap();
            assert!(before == 4 || before == after);
        }
    }

    #[test]
    fn no_worker_gets_much_more_than_the_mean() {
        let ids = ids(4);
        let mut loads = [0; 4];
        // One prompt, asked over and over.
        for n in 1..=400_u32 {
            let chosen = choose(raw("same"), 125, &workers(&ids, &loads)).unwrap();
            loads[chosen] += 1;
            let most = *loads.iter().max().unwrap();
            assert!(most <= (n * 125).div_ceil(400), "{loads:?}");
        }
        assert_eq!(loads.iter().sum::<u32>(), 400);
    }

    #[test]
    fn somebody_is_chosen_whatever_the_loads() {
        let ids = ids(3);
        for loads in [[0, 0, 0], [7, 7, 7], [u32::MAX, 0, 5], [1, 2, 3]] {
            assert!(choose(raw("p"), 100, &workers(&ids, &loads)).is_some());
        }
        assert_eq!(choose(raw("p"), 100, &[]), None);
    }
}
