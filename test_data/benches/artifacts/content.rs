//! Bytes that compress as real ones do: text as sources are, and binaries of which half is noise.
//!
//! Ensures: the same for the same seed.

use fastrand::Rng;

const SYLLABLES: [&str; 32] = [
    "re", "con", "fi", "gu", "ra", "ti", "on", "sta", "te", "len", "pa", "th", "er", "ror", "in", "de", "x", "val",
    "ue", "str", "ing", "ma", "p", "lo", "ck", "se", "t", "get", "ch", "un", "k", "ing",
];
/// What stands between two words of a line, the frequent ones often.
const BETWEEN: [&str; 12] = [" ", " ", " ", " ", "_", ".", "(", ", ", " = ", "::", "->", ") "];
const ENDS: [&str; 6] = [";\n", ";\n", "\n", " {\n", ");\n", "\n\n"];
const WORDS: usize = 4000;
/// How many of the words a file has besides the most frequent ones.
const OF_A_FILE: usize = 60;
/// How much noise there is to cut pieces from: far more than a compressor looks back.
const NOISE: usize = 8 << 20;
/// The most that is of one kind in a binary, twice over.
const SECTION: usize = 128 * 1024;

/// What texts are made of.
pub(crate) struct Language {
    words: Vec<String>,
}

impl Language {
    pub(crate) fn new(random: &mut Rng) -> Self {
        let word =
            |random: &mut Rng| (0..random.usize(1..5)).map(|_| SYLLABLES[random.usize(..SYLLABLES.len())]).collect();
        Self { words: (0..WORDS).map(|_| word(random)).collect() }
    }

    /// A text of this length.
    pub(crate) fn text(&self, length: usize, random: &mut Rng) -> Vec<u8> {
        let own = (0..OF_A_FILE).map(|_| self.any(random)).collect::<Vec<_>>();
        let (mut text, mut starts) = (Vec::with_capacity(length + 400), vec![0]);
        while text.len() < length {
            let indent = 4 * random.usize(..5);
            text.extend(std::iter::repeat_n(b' ', indent));
            if random.u8(..8) < 3 {
                // Much in a source is like something a little above.
                let at = starts[starts.len().saturating_sub(random.usize(1..30))];
                let until = (at + random.usize(20..120)).min(text.len());
                text.extend_from_within(at..until);
            }
            for _ in 0..random.usize(1..8) {
                let word = if random.u8(..8) == 0 { self.any(random) } else { own[random.usize(..OF_A_FILE)] };
                text.extend(word.as_bytes());
                text.extend(BETWEEN[random.usize(..BETWEEN.len())].as_bytes());
            }
            text.extend(ENDS[random.usize(..ENDS.len())].as_bytes());
            starts.push(text.len());
        }
        text.truncate(length);
        text
    }

    fn any(&self, random: &mut Rng) -> &str {
        // The product of two is small more often than not: some words are frequent.
        &self.words[random.usize(..WORDS) * random.usize(..WORDS) / WORDS]
    }
}

/// A binary of this length: sections of noise, as what was compressed before is, and of something like machine code, short
/// runs of new bytes and longer ones that were there before.
pub(crate) fn binary(length: usize, random: &mut Rng) -> Vec<u8> {
    let mut noise = vec![0; NOISE];
    random.fill(&mut noise);
    // As in code some bytes are much more frequent than others.
    let code = noise.windows(2).map(|pair| pair[0] & pair[1]).collect::<Vec<_>>();
    let mut bytes = Vec::with_capacity(length + SECTION);
    while bytes.len() < length {
        let until = bytes.len() + random.usize(SECTION / 4..SECTION / 2);
        if random.u8(..10) < 4 {
            let at = random.usize(..NOISE - SECTION);
            bytes.extend_from_slice(&noise[at..at + until - bytes.len()]);
        }
        while bytes.len() < until {
            let at = random.usize(..NOISE - SECTION);
            bytes.extend_from_slice(&code[at..at + random.usize(1..20)]);
            let from = bytes.len() - random.usize(1..30_000).min(bytes.len());
            let repeated = (from + random.usize(6..128)).min(bytes.len());
            bytes.extend_from_within(from..repeated);
        }
    }
    bytes.truncate(length);
    bytes
}
