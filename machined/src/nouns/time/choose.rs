//! Whom to believe: the largest group of servers whose answers can all be true at
//! once, and of that group the middle. Pure.

use super::packet::{Answer, Nanos};

/// What is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// What must be added to our clock.
    pub(crate) offset: Nanos,
    /// How wrong that may be.
    pub(crate) distance: Nanos,
    /// Who agrees, by their place in the list.
    pub(crate) agreeing: Vec<usize>,
}

/// Chooses. `None` where no more than half of the servers agree: nobody can say which
/// half is right. A single server is believed.
pub(crate) fn choose(answers: &[Answer]) -> Option<Choice> {
    let agree_with = |point: Nanos| -> Vec<usize> {
        let holds = |answer: &Answer| (answer.offset - point).abs() <= answer.distance;
        answers
            .iter()
            .enumerate()
            .filter(|(_, answer)| holds(answer))
            .map(|(index, _)| index)
            .collect()
    };
    // The most intervals overlap where one of them begins.
    let agreeing = answers
        .iter()
        .map(|answer| agree_with(answer.offset - answer.distance))
        // The first of the largest: what is chosen does not change with the order of equals.
        .reduce(|best, next| if next.len() > best.len() { next } else { best })?;
    if agreeing.len() * 2 <= answers.len() {
        return None;
    }
    let mut offsets: Vec<Nanos> = agreeing
        .iter()
        .map(|&index| answers[index].offset)
        .collect();
    offsets.sort_unstable();
    let middle = offsets.len() / 2;
    let offset = match offsets.len() % 2 {
        1 => offsets[middle],
        _ => (offsets[middle - 1] + offsets[middle]) / 2,
    };
    let distance = agreeing
        .iter()
        .map(|&index| answers[index].distance)
        .min()?;
    Some(Choice {
        offset,
        distance,
        agreeing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(all: &[(Nanos, Nanos)]) -> Vec<Answer> {
        all.iter()
            .map(|&(offset, distance)| Answer {
                offset,
                delay: 0,
                distance,
                stratum: 2,
            })
            .collect()
    }

    #[test]
    fn choices() {
        let cases: &[(&str, &[(Nanos, Nanos)], Option<(Nanos, &[usize])>)] = &[
            ("nobody answers", &[], None),
            ("one is believed", &[(500, 10)], Some((500, &[0]))),
            ("two agree", &[(100, 10), (104, 10)], Some((102, &[0, 1]))),
            ("two disagree", &[(100, 10), (200, 10)], None),
            (
                "one of three lies",
                &[(100, 10), (9_000, 10), (104, 10)],
                Some((102, &[0, 2])),
            ),
            (
                "two of four lie together",
                &[(100, 10), (104, 10), (900, 10), (904, 10)],
                None,
            ),
            (
                "the middle, not the mean",
                &[(100, 50), (101, 50), (140, 50)],
                Some((101, &[0, 1, 2])),
            ),
            (
                "a vague one agrees with all",
                &[(100, 10), (104, 10), (0, 5_000)],
                Some((100, &[0, 1, 2])),
            ),
            (
                "touching is agreeing",
                &[(0, 10), (20, 10)],
                Some((10, &[0, 1])),
            ),
        ];
        for (name, all, want) in cases {
            let choice = choose(&answers(all)).map(|choice| (choice.offset, choice.agreeing));
            assert_eq!(
                choice,
                want.map(|(offset, who)| (offset, who.to_vec())),
                "{name}"
            );
        }
    }
}
