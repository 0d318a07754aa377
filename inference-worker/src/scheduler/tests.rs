use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::slots::Source;

const LIMITS: Limits = Limits {
    slots: 3,
    context: 64,
    batch: 24,
    gap: Duration::from_millis(100),
    cache: 1 << 20,
};

/// Carries out what a scheduler plans, and notices when that is impossible.
struct Machine {
    scheduler: Scheduler<Vec<Token>>,
    slots: Vec<Vec<Token>>,
    /// Every task by what it has got.
    tasks: BTreeMap<TaskId, State>,
    last: u64,
}

#[derive(Debug, Clone)]
struct State {
    prompt: Arc<[Token]>,
    most: usize,
    tokens: Vec<Token>,
    ends: usize,
}

impl Machine {
    fn new(limits: Limits) -> Self {
        Self {
            scheduler: Scheduler::new(limits),
            slots: vec![Vec::new(); limits.slots as usize],
            tasks: BTreeMap::new(),
            last: 0,
        }
    }

    fn submit(&mut self, prompt: &[Token], most: usize, after: Option<TaskId>) -> TaskId {
        self.last += 1;
        let id = TaskId(self.last);
        let prompt: Arc<[Token]> = prompt.into();
        self.tasks.insert(
            id,
            State {
                prompt: Arc::clone(&prompt),
                most,
                tokens: Vec::new(),
                ends: 0,
            },
        );
        self.scheduler.submit(Task {
            id,
            prompt,
            most,
            after,
        });
        id
    }

    fn cancel(&mut self, id: TaskId) {
        let state = self.tasks.get_mut(&id).unwrap();
        if state.ends == 0 {
            state.ends += 1;
            self.scheduler.cancel(id);
        }
    }

    /// One step; the token after so many read ones is their number. Answers the rows.
    fn step(&mut self) -> Vec<crate::engine::Row> {
        while let Some(admission) = self.scheduler.admit() {
            let Placement {
                slot, source, keep, ..
            } = admission.placement;
            let old = self.slots[slot.index()].clone();
            if let Some(aside) = &admission.aside {
                assert_eq!(*aside, old);
            }
            let content = match source {
                Source::Own => old.clone(),
                Source::Slot(other) => self.slots[other.index()].clone(),
                Source::Saved(entry) => self.scheduler.cache().take_up(entry).unwrap().0.clone(),
            };
            self.slots[slot.index()] = content[..keep].to_vec();
            self.scheduler.settle(slot, keep);
            if let Some(aside) = admission.aside {
                let bytes = aside.len();
                self.scheduler.cache().put(aside.clone(), aside, bytes);
            }
        }
        let limits = self.scheduler.limits;
        let plan = self.scheduler.step();
        let rows = plan.rows.clone();
        let outputs = plan.outputs.clone();
        assert!(rows.len() <= limits.batch);
        assert!(rows.is_sorted_by_key(|row| (row.slot, row.position)));
        for row in &rows {
            let slot = &mut self.slots[row.slot.index()];
            assert_eq!(slot.len(), row.position as usize);
            slot.push(row.token);
            assert!(slot.len() <= limits.context);
        }
        if rows.is_empty() {
            return rows;
        }
        self.scheduler
            .read(Duration::from_millis(rows.len() as u64));
        for output in outputs {
            let content = &self.slots[output.slot.index()];
            let state = self.tasks.get_mut(&output.task).unwrap();
            assert_eq!(content[..state.prompt.len()], state.prompt[..]);
            assert_eq!(content[state.prompt.len()..], state.tokens[..]);
            let token = content.len() as Token;
            state.tokens.push(token);
            if self
                .scheduler
                .chosen(output.slot, token, token.is_multiple_of(41))
                .is_some()
            {
                state.ends += 1;
            }
        }
        rows
    }

    fn run(&mut self) {
        let mut steps = 0;
        while !self.scheduler.is_idle() {
            assert!(!self.step().is_empty(), "there is work, but no step");
            steps += 1;
            assert!(steps < 100_000, "no end");
        }
    }
}

fn prompt(length: usize, start: Token) -> Vec<Token> {
    (0..length as Token).map(|it| it + start).collect()
}

#[derive(Debug, Clone)]
enum Action {
    Submit {
        length: usize,
        start: Token,
        most: usize,
    },
    Again,
    Cancel(usize),
    Step,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => (1_usize..63, 0_u32..3, 1_usize..40)
            .prop_map(|(length, start, most)| Action::Submit { length, start: start * 1000, most }),
        1 => Just(Action::Again),
        2 => any::<usize>().prop_map(Action::Cancel),
        6 => Just(Action::Step),
    ]
}

proptest! {
    #[test]
    fn every_task_ends_once_and_no_slot_leaks(
        actions in prop::collection::vec(action(), 1..120),
    ) {
        let mut machine = Machine::new(LIMITS);
        for action in actions {
            match action {
                Action::Submit { length, start, most } => {
                    machine.submit(&prompt(length, start), most, None);
                }
                Action::Again => {
                    if let Some((id, state)) = machine.tasks.iter().next_back() {
                        let (id, state) = (*id, state.clone());
                        machine.submit(&state.prompt, state.most, (state.ends == 0).then_some(id));
                    }
                }
                Action::Cancel(index) => {
                    let ids: Vec<TaskId> = machine.tasks.keys().copied().collect();
                    if !ids.is_empty() {
                        machine.cancel(ids[index % ids.len()]);
                    }
                }
                Action::Step => {
                    machine.step();
                }
            }
        }
        machine.run();
        prop_assert_eq!(machine.scheduler.pool().busy(), 0);
        for (id, state) in &machine.tasks {
            prop_assert_eq!(state.ends, 1, "{:?} {:?}", id, state);
            prop_assert!(state.tokens.len() <= state.most);
            prop_assert!(state.prompt.len() + state.tokens.len() <= LIMITS.context);
        }
    }
}

#[test]
fn frees_every_slot_within_a_step_after_disconnects() {
    let mut machine = Machine::new(LIMITS);
    for round in 0..1000_u32 {
        let ids: Vec<TaskId> = (0..4)
            .map(|task| machine.submit(&prompt(20, round * 7 + task * 100), 50, None))
            .collect();
        for _ in 0..round % 5 {
            machine.step();
        }
        ids.into_iter().for_each(|id| machine.cancel(id));
        assert_eq!(machine.scheduler.pool().busy(), 0);
        assert!(machine.step().is_empty());
        assert!(machine.scheduler.is_idle());
    }
}

#[test]
fn answers_wait_for_one_part_of_a_prompt_at_a_time() {
    let mut machine = Machine::new(Limits {
        context: 4096,
        batch: 512,
        gap: Duration::from_millis(200),
        ..LIMITS
    });
    machine.submit(&prompt(10, 0), 1000, None);
    machine.submit(&prompt(10, 5000), 1000, None);
    // Both prompts, and two tokens more of each answer.
    for _ in 0..4 {
        machine.step();
    }
    machine.submit(&prompt(1024, 9000), 10, None);
    let mut parts = Vec::new();
    loop {
        let slots = |rows: Vec<crate::engine::Row>| rows.iter().map(|row| row.slot.0).collect();
        let part: Vec<u32> = slots(machine.step());
        assert!(part.iter().all(|slot| *slot == 2), "{part:?}");
        parts.push(part.len());
        if parts.iter().sum::<usize>() == 1024 {
            break;
        }
        let answers: Vec<u32> = slots(machine.step());
        assert_eq!(answers, [0, 1]);
    }
    // A token of the machine takes a millisecond.
    assert!(
        parts.iter().all(|part| (100..=250).contains(part)),
        "{parts:?}"
    );
    assert!(parts.len() < 8, "{parts:?}");
}

#[test]
fn answers_begin_together_with_those_that_came_with_them_but_not_at_any_price() {
    let firsts = |length: usize| {
        let mut machine = Machine::new(Limits {
            context: 4096,
            batch: 512,
            ..LIMITS
        });
        for start in [0, 5000, 9000] {
            machine.submit(&prompt(length, start), 10, None);
        }
        // How much of the prompts was read before the first answer's second token.
        let mut read = 0;
        while let rows = machine.step()
            && rows.len() > 3
        {
            read += rows.len();
        }
        read
    };
    assert_eq!(firsts(200), 600);
    // A token takes a millisecond, and 30 gaps are 3 s.
    assert!((3000..3600).contains(&firsts(2000)));
}

#[test]
fn finishes_what_is_nearly_read_and_passes_nobody_over() {
    let mut machine = Machine::new(Limits {
        context: 4096,
        ..LIMITS
    });
    machine.submit(&prompt(200, 0), 1, None);
    machine.step();
    machine.submit(&prompt(30, 5000), 1, None);
    machine.submit(&prompt(31, 9000), 1, None);
    let counts: Vec<[usize; 3]> = (0..6)
        .map(|_| {
            let rows = machine.step();
            [0, 1, 2].map(|slot| rows.iter().filter(|row| row.slot.0 == slot).count())
        })
        .collect();
    // The long one and the others have their turns; and of the others one after the other.
    let expected = [
        [24, 0, 0],
        [0, 24, 0],
        [24, 0, 0],
        [0, 6, 0],
        [24, 0, 0],
        [0, 0, 24],
    ];
    assert_eq!(counts, expected);
    machine.run();
}

#[test]
fn puts_tasks_beside_one_another() {
    let mut machine = Machine::new(Limits { slots: 8, ..LIMITS });
    // The last one used is the last one chosen, but for its neighbours.
    for start in [0, 500, 1000, 1500] {
        machine.submit(&prompt(20, start), 1, None);
        machine.run();
    }
    for start in [2000, 2500, 3000] {
        machine.submit(&prompt(20, start), 30, None);
    }
    for _ in 0..3 {
        machine.step();
    }
    let rows = machine.step();
    let slots: Vec<u32> = rows.iter().map(|row| row.slot.0).collect();
    assert!(
        slots.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{slots:?}"
    );
}

#[test]
fn reads_a_prompt_once_for_several_answers() {
    let mut machine = Machine::new(LIMITS);
    let first = machine.submit(&prompt(40, 0), 5, None);
    for _ in 0..4 {
        machine.submit(&prompt(40, 0), 5, Some(first));
    }
    let mut read = 0;
    while !machine.scheduler.is_idle() {
        read += machine
            .step()
            .iter()
            .filter(|row| row.position < 40)
            .count();
    }
    // All of it once, and the last token for each of the others.
    assert_eq!(read, 40 + 4);
}

#[test]
fn finds_in_host_memory_what_lost_its_slot() {
    let mut machine = Machine::new(Limits {
        slots: 1,
        context: 256,
        ..LIMITS
    });
    for start in [0, 1000] {
        machine.submit(&prompt(100, start), 1, None);
        machine.run();
    }
    machine.submit(&prompt(100, 0), 1, None);
    assert_eq!(machine.step().len(), 1);
}
