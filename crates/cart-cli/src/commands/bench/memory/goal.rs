//! Goal steering: how much of what is generated belongs to what the goal grew from, and what it costs in
//! divergence.

use std::collections::BTreeSet;

use cart_engine::{Agent, GoalOptions, MemoryOptions, Prompt};

use super::outcome::Outcome;
use super::{Bench, perplexity};
use crate::asking::{shuffled, writings};
use crate::failure::Failure;

/// Most new tokens of a text.
const LENGTH: usize = 32;
/// Texts of each beginning.
const TAKES: u64 = 2;
/// A strength with which every step comes to its budget.
const STRONG: f32 = 4.0;
/// Budgets, in nats.
const BUDGETS: [f32; 4] = [0.1, 0.25, 0.5, 1.0];

/// How the goal reaches the output.
const WAYS: [(&str, GoalOptions); 2] = [
    ("logits", GoalOptions { strength: STRONG, residual: 0.0, max_kl: 0.0 }),
    ("residual stream", GoalOptions { strength: 0.0, residual: STRONG, max_kl: 0.0 }),
];

/// What an agent was told, and words that belong to it.
struct Topic {
    told: [&'static str; 8],
    /// Lower case, with spaces between.
    related: &'static str,
}

const TOPICS: [Topic; 3] = [
    Topic {
        told: [
            "The cook stirred the soup and added salt and pepper.",
            "Bake the bread in a hot oven until the crust is brown.",
            "Melt the butter in a pan and fry the onions.",
            "The kitchen smelled of garlic, tomatoes and fresh basil.",
            "Whisk the eggs with sugar and pour them over the flour.",
            "A good recipe needs ripe vegetables and a sharp knife.",
            "She boiled the pasta and grated some cheese over it.",
            "Roast the chicken with potatoes, carrots and rosemary.",
        ],
        related: "cook cooked cooking soup salt pepper bake baked baking bread oven butter pan fry fried onion \
            onions kitchen garlic tomato tomatoes basil eggs egg sugar flour recipe recipes vegetable \
            vegetables knife boil boiled pasta cheese roast roasted chicken potato potatoes carrots food \
            foods dish dishes meal meals dinner lunch breakfast eat eating ate delicious taste tasty flavor \
            flavors ingredients ingredient sauce meat beef rice cake cookies chef spices spice oil milk \
            cream chocolate fruit fruits pizza salad sweet herbs hot",
    },
    Topic {
        told: [
            "The captain steered the ship through the storm.",
            "Waves broke over the deck and the sails were torn.",
            "The fishermen pulled their nets out of the cold water.",
            "At night the lighthouse showed the way into the harbour.",
            "A whale came up beside the boat and dived again.",
            "The sailors lowered the anchor in a quiet bay.",
            "The tide was low and the beach was full of shells.",
            "They crossed the ocean in forty days with a fair wind.",
        ],
        related: "captain ship ships storm storms wave waves deck sail sails sailing sailed sailor sailors \
            fisherman fishermen fish fishing net nets water waters lighthouse harbour harbor whale whales \
            boat boats anchor bay tide tides beach beaches shell shells ocean oceans wind winds sea seas \
            coast coastal shore shores island islands port crew voyage marine dolphin dolphins sand deep \
            swim swimming reef coral river lake current currents navy cruise dock surf",
    },
    Topic {
        told: [
            "The orchestra tuned their violins before the concert.",
            "She practised the piano for three hours every day.",
            "The choir sang an old song in four voices.",
            "A drummer and a guitarist played jazz in the club.",
            "The composer wrote a symphony in a minor key.",
            "He learned the melody by ear and added a harmony.",
            "The audience clapped when the singer reached the high note.",
            "The band recorded a new album with a famous producer.",
        ],
        related: "orchestra violin violins concert concerts piano choir sang sing singing singer singers song \
            songs voice voices drummer drum drums guitar guitarist played play playing jazz composer \
            composers symphony melody melodies harmony audience note notes band bands album albums music \
            musical musician musicians rhythm rhythms sound sounds tune tunes instrument instruments \
            classical rock pop opera lyrics stage perform performed performance performances listen \
            listening recording dance",
    },
];

/// Beginnings that lead anywhere.
const BEGINNINGS: [&str; 12] = [
    "Today I want to tell you about",
    "The most important thing is",
    "Yesterday we went to",
    "My favourite memory is",
    "When I was young, I",
    "In this article, we will",
    "The story begins with",
    "Once upon a time, there was",
    "I have always liked",
    "The first thing that comes to mind is",
    "Last week my friend",
    "One of the best things in life is",
];

/// Shares of related words, in percent, within each budget; and the divergences in rows of their own.
pub(super) fn goal(bench: &Bench<'_>, seed: u64) -> Result<Vec<Outcome>, Failure> {
    let topic = &TOPICS[(seed % TOPICS.len() as u64) as usize];
    let agent = Bench::fresh(&bench.agent)?;
    for told in topic.told {
        perplexity::import(&agent, told)?;
    }
    let write = |before: &str, memory: &MemoryOptions| share(&agent, topic, before, memory, seed);
    let (none, _) = write("", &MemoryOptions::default())?;
    let (context, _) = write(&format!("{}\n", topic.told.join(" ")), &MemoryOptions::default())?;
    let mut outcomes = Vec::new();
    for ((way, goal), max_kl) in
        WAYS.into_iter().flat_map(|way| BUDGETS.map(|max_kl| (way.clone(), max_kl)))
    {
        let goal = Some(GoalOptions { max_kl, ..goal });
        let memory = MemoryOptions { goal, ..MemoryOptions::default() };
        let (steered, kl) = write("", &memory)?;
        let (control, control_kl) = write("", &shuffled(&memory, seed))?;
        let row = |what: &str| format!("{way}, at most {max_kl} nats: {what}");
        let of = BEGINNINGS.len() * TAKES as usize;
        outcomes.push(Outcome {
            row: row("% related"),
            of,
            memory: Some(steered),
            none: Some(none),
            shuffled: Some(control),
            context: Some(context),
        });
        let (memory, shuffled) = (Some(kl), Some(control_kl));
        outcomes.push(Outcome { row: row("KL"), of, memory, shuffled, ..Outcome::default() });
    }
    Ok(outcomes)
}

/// The percentage of words that belong to the topic, and the mean divergence of a step.
fn share(
    agent: &Agent,
    topic: &Topic,
    before: &str,
    memory: &MemoryOptions,
    seed: u64,
) -> Result<(f64, f64), Failure> {
    let prompts: Vec<Prompt> =
        BEGINNINGS.iter().map(|begun| Prompt::Raw(format!("{before}{begun}"))).collect();
    let mut texts = Vec::new();
    for take in 0..TAKES {
        let seed = seed.wrapping_mul(TAKES).wrapping_add(take);
        texts.extend(writings(agent, prompts.clone(), memory, LENGTH, seed)?);
    }
    let known: BTreeSet<&str> = topic.related.split_whitespace().collect();
    let (mut words, mut related, mut kl) = (0, 0, 0.0);
    for text in &texts {
        for word in text.text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()) {
            words += 1;
            related += usize::from(known.contains(word.to_lowercase().as_str()));
        }
        kl += text.memory.as_ref().map_or(0.0, |used| used.goal_kl);
    }
    Ok((100.0 * related as f64 / words.max(1) as f64, kl / texts.len() as f64))
}
