"""Reading ahead: which tokens are worth feeding to the model before they are decided.

A run of tokens costs the model little more than one token. So where a decision can be guessed, the guess
and what follows it go into the same run as what is known, and the run's logits decide. A wrong guess
costs some time; it never changes the answer, for every token is drawn from the logits after the true
tokens before it.

Guesses come from a draft (the objects that are expected, with their boxes) and from the form of the
answer itself: most often there is a further object, and a coordinate begins with 0. Of free words it is
guessed that they go on as they did when the same was asked last.

Three things decide how far to go: how often a guess has been right at each place of the automaton, which is
remembered also where nothing was fed ahead; the measured cost of a run; and what a guess that is left out
would cost later, which is next to nothing where long runs are the rule, and a run of its own where none are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from lfm_perception.engine.grammar import Grammar, State
from lfm_perception.geometry import Box
from lfm_perception.questions import Draft

BLOCK = 16
"""Tokens that llama.cpp's matrix product takes together; a rest of them costs more each."""

LONGEST_RUN, EXACT_ROWS = 63, 7
"""Tokens of a run, and places of it with logits, up to which llama.cpp gives the same numbers bit for bit,
however the tokens are divided into runs and whatever the number of threads. 64 tokens are computed another
way (attention in tiles); `context` sees to single ones."""

MOST_ROWS = 32
"""Places of one run at which logits are had. From 8 on the last matrix, and only that, is computed another
way: the logits then differ by rounding, and `decoding` looks again where that could matter."""

WAY_BACK = 10
"""Tokens that can be taken back at no cost. For each, llama.cpp computes three operations more in every layer
with a convolution; above 10 a model of many such layers exceeds the limit at which it ends the process."""

_TRUST = 0.75
"""How often a guess is right at a place where none has been compared yet."""

_MEMORY = 1 / 12
"""Weight of the latest guess in the average at its place: a few frames."""

_HOPELESS = 0.02
"""Where the guesses are right together with a lower probability, there is no need to look further."""


class Speculator:
    """Guesses for the answers of one grammar, and what was learnt about them.

    `cost(n)` are the seconds of a run of n tokens.
    """

    def __init__(self, grammar: Grammar, cost: Callable[[int], float]) -> None:
        self.grammar = grammar
        self._cost = cost
        self._further_token = (cost(2 * BLOCK) - cost(BLOCK)) / BLOCK
        self._trust: dict[_Place, float] = {}
        self._alone: dict[_Place, float] = {}
        self._decided: list[tuple[_Place, int]] = []  # since the last run was planned, with their tokens
        self._rate = 0.0  # seconds per token of that run
        names = grammar.labels or ("object", "area")
        one, other = (names[0], Box(0.1, 0.2, 0.3, 0.4)), (names[-1], Box(0.5, 0.6, 0.7, 0.8))
        course, second = self._course(one), self._course(other)
        self._form = {place: token for place, token in course.items() if second.get(place) == token}
        """What is guessed without a draft: the tokens on which all objects agree."""
        self._first, self._none = _fork(grammar, [one], [])
        self._further, self._end = _fork(grammar, [one, one], [one])

    def expect(self, draft: Draft | None) -> Expectation:
        """What is expected at the beginning of an answer. Objects the grammar cannot write end early."""
        self._decided.clear()
        courses = None if draft is None else tuple(self._course(found) for found in draft)
        return Expectation(courses, (0.0,) * len(draft or ()))

    def guess(self, place: State, expected: Expectation) -> int | None:
        """The token expected at a place."""
        if expected.courses is None:
            return self._form.get(place)
        if place is self._first and not expected.courses:
            return self._none
        if place is self._further and len(expected.courses) < 2:
            return self._end
        return (expected.nearest or self._form).get(place)

    def after(self, place: State, token: int, expected: Expectation) -> Expectation:
        """What is expected once a token is chosen at a place."""
        if not expected.courses:
            return expected
        return expected.without_nearest() if place is self._further else expected.seen(place, token)

    def note(self, place: State, token: int, expected: Expectation) -> None:
        """Learn from a decision how good the guess was."""
        where = place, expected.courses is None
        guess = self.guess(place, expected)
        if guess is not None:
            trust = self._trust.get(where, _TRUST)
            self._trust[where] = trust + _MEMORY * ((guess == token) - trust)
        self._decided.append((where, len(_forced(place, token)[0])))

    def ahead(
        self, place: State, expected: Expectation, known: int, room: int
    ) -> tuple[list[int], list[int]]:
        """Tokens to feed after `known` ones, at most `room`, and the numbers of those with a decision after.

        The tokens lead from `place` on and are those for which the time saved, on average, is greatest.
        """
        decided, self._decided = self._decided, []
        for where, count in decided[:-1]:  # their tokens were in the last run, which had guessed them
            self._learn_price(where, count)
        tokens: list[int] = []
        decisions: list[int] = []
        best, best_gain, best_right = (0, 0), 0.0, 0.0
        saved, chance, right = 0.0, 1.0, 0.0
        doubts: list[tuple[int, float]] = []  # guesses: where, and what it costs if wrong and out of reach
        lost, passed = 0.0, 0
        while len(decisions) < MOST_ROWS - 1 and chance > _HOPELESS:
            token = self.guess(place, expected)
            if token is None:
                break
            where = place, expected.courses is None
            trust, alone = self._trust.get(where, _TRUST), self._alone.get(where, 1.0)
            expected = self.after(place, token, expected)
            run, place = _forced(place, token)
            if not place.allowed.size:
                break
            before, begin = len(tokens), known + len(tokens)
            again = self._cost(begin + len(run)) - self._cost(len(run))
            doubts.append((begin, chance * (1.0 - trust) * again))
            chance *= trust
            tokens += run
            whole = self._price(len(run), alone)
            most = min(len(run), room - before, LONGEST_RUN - begin)
            for part in range(1, most + 1):
                while passed < len(doubts) and begin + part - doubts[passed][0] > WAY_BACK:
                    lost += doubts[passed][1]
                    passed += 1
                value = saved + chance * (whole - self._price(len(run) - part, alone))
                gain = value - lost - (self._cost(begin + part) - self._cost(known))
                if gain > best_gain:
                    best = before + part, len(decisions) + (part == len(run))
                    best_gain, best_right = gain, right + chance * part
            if most < len(run):
                break
            saved += chance * whole
            right += chance * len(run)
            decisions.append(len(tokens) - 1)
        self._rate = self._cost(known + best[0]) / max(1.0, known + best_right)
        for where, count in decided[-1:]:
            self._learn_price(where, count)
        return tokens[: best[0]], decisions[: best[1]]

    def _price(self, tokens: int, alone: float) -> float:
        """Seconds of so many tokens: `alone` is 1 for those of a run of their own, 0 in a longer run."""
        if not tokens:
            return 0.0
        return alone * self._cost(tokens) + (1.0 - alone) * self._further_token * tokens

    def _learn_price(self, where: _Place, tokens: int) -> None:
        """That the tokens after a decision cost their share of the last run."""
        least, most = self._price(tokens, 0.0), self._price(tokens, 1.0)
        if least < most and where in self._trust:  # a place where something is guessed
            share = min(max((self._rate * tokens - least) / (most - least), 0.0), 1.0)
            alone = self._alone.get(where, 1.0)
            self._alone[where] = alone + _MEMORY * (share - alone)

    def _course(self, found: tuple[str, Box]) -> Course:
        course: dict[State, int] = {}
        for place, token in self.grammar.walk([found, found]):  # as the first object, and as a further one
            course.setdefault(place, token)
        return course


class TextSpeculator:
    """Guesses for free words: those that were said last to the same question, from where they agree.

    `cost(n)` are the seconds of a run of n tokens.
    """

    def __init__(self, cost: Callable[[int], float]) -> None:
        self._cost = cost
        self._last: tuple[int, ...] = ()
        self._trust = _TRUST

    def remember(self, words: Sequence[int]) -> None:
        """Take in an answer."""
        self._last = tuple(words)

    def guess(self, words: Sequence[int]) -> int | None:
        """The token expected after these."""
        return next(iter(self._last[self._place(words) :]), None)

    def note(self, guess: int | None, token: int) -> None:
        """Learn from a token how good the guess was."""
        if guess is not None:
            self._trust += _MEMORY * ((guess == token) - self._trust)

    def ahead(self, words: Sequence[int], known: int, room: int) -> tuple[list[int], list[int]]:
        """As `Speculator.ahead`; every token is a decision, and all can be taken back."""
        begin = self._place(words)
        most = min(room, WAY_BACK, LONGEST_RUN - known, len(self._last) - begin)
        alone, alike = self._cost(1), self._cost(known)
        best, best_gain, saved = 0, 0.0, 0.0
        for count in range(1, most + 1):
            saved += self._trust**count * alone
            gain = saved - (self._cost(known + count) - alike)
            if gain > best_gain:
                best, best_gain = count, gain
        return list(self._last[begin : begin + best]), list(range(best))

    def _place(self, words: Sequence[int]) -> int:
        """How far the last answer had come when it ended as these words do: in most of them, if several."""
        if not words:
            return 0
        ends = [place + 1 for place, token in enumerate(self._last) if token == words[-1]]
        return max(
            ends, key=lambda end: (self._alike(words, end), -abs(end - len(words))), default=len(self._last)
        )

    def _alike(self, words: Sequence[int], end: int) -> int:
        """How many tokens before that place are those before the end of the words."""
        pairs = zip(reversed(words), reversed(self._last[:end]), strict=False)
        return next((count for count, (word, token) in enumerate(pairs) if word != token), end)


_Place = tuple[State, bool]
"""A place of the automaton, and whether there was no draft."""

Course = Mapping[State, int]
"""The tokens in which an object is written, by the places at which they are chosen."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """The objects of a draft that are not written yet; `courses` is None without a draft.

    `apart` says how far each is from what is already written of the object in progress.
    """

    courses: tuple[Course, ...] | None
    apart: tuple[float, ...]

    @property
    def nearest(self) -> Course | None:
        """The object that is probably in progress."""
        return self.courses[self._nearest] if self.courses else None

    def seen(self, place: State, token: int) -> Expectation:
        """After a token of the object in progress was chosen."""
        pairs = zip(self.courses or (), self.apart, strict=True)
        return replace(self, apart=tuple(far + _apart(place, token, each) for each, far in pairs))

    def without_nearest(self) -> Expectation:
        """After the object in progress was finished."""
        done = self._nearest
        left = tuple(course for number, course in enumerate(self.courses or ()) if number != done)
        return Expectation(left, (0.0,) * len(left))

    @property
    def _nearest(self) -> int:
        return self.apart.index(min(self.apart))


def _apart(place: State, token: int, course: Course) -> float:
    """0 where the object would be written alike, else the distance of the coordinates, or 1."""
    expected = course.get(place, token)
    if expected == token:
        return 0.0
    if token in place.sides and expected in place.sides:
        return abs(place.sides[token] - place.sides[expected])
    return 1.0


def _forced(place: State, token: int) -> tuple[list[int], State]:
    """The token and those that must follow it, and the next place with a decision, or the end."""
    run = [token]
    place = place.after(token)
    while place.allowed.size == 1:
        run.append(int(place.allowed[0]))
        place = place.after(run[-1])
    return run, place


def _fork(
    grammar: Grammar, longer: Sequence[tuple[str, Box]], shorter: Sequence[tuple[str, Box]]
) -> tuple[State, int]:
    """The place where two answers part, and the token that the shorter one takes there."""
    pairs = zip(grammar.walk(longer), grammar.walk(shorter), strict=False)
    return next((place, token) for (_, other), (place, token) in pairs if token != other)
