"""Room for what is held in memory: never more than there is, first come, first served, nothing lost."""

from __future__ import annotations

import asyncio

from deltabus.depot.room import Room


async def turns() -> None:
    """Let everybody do what he can."""
    for _ in range(20):
        await asyncio.sleep(0)


class Guest:
    """Somebody who holds a share until he is told to leave."""

    def __init__(self, room: Room, size: int, needs: int | None = None) -> None:
        self.is_in = False
        self.leave = asyncio.Event()
        self.task = asyncio.create_task(self._stay(room, size, needs))

    async def _stay(self, room: Room, size: int, needs: int | None) -> None:
        async with room.share(size) as share:
            if needs is not None:
                share.shrink(needs)
            self.is_in = True
            await self.leave.wait()


def inside(guests: list[Guest]) -> list[bool]:
    return [guest.is_in for guest in guests]


def test_who_finds_no_room_waits_for_his_turn_and_nobody_overtakes_him(run):
    async def main() -> None:
        room = Room(10)
        guests = [Guest(room, 6), Guest(room, 6), Guest(room, 1)]
        await turns()
        assert inside(guests) == [True, False, False]
        guests[0].leave.set()
        await turns()
        assert inside(guests) == [True, True, True]
        for guest in guests:
            guest.leave.set()
        await asyncio.gather(*(guest.task for guest in guests))

    run(main())


def test_what_is_not_needed_is_there_for_others(run):
    async def main() -> None:
        room = Room(20)
        guests = [Guest(room, 10, needs=1) for _ in range(12)]
        await turns()
        assert inside(guests) == [True] * 11 + [False]  # with 11 taken, there is no room for 10 more
        for guest in guests:
            guest.leave.set()
        await asyncio.gather(*(guest.task for guest in guests))
        async with room.share(20):
            pass

    run(main())


def test_who_wants_more_than_there_is_gets_all_of_it(run):
    async def main() -> None:
        async with Room(10).share(1000) as share:
            assert share.size == 10

    run(main())


def test_who_gives_up_waiting_leaves_no_gap(run):
    async def main() -> None:
        room = Room(10)
        first, gives_up, patient = Guest(room, 10), Guest(room, 10), Guest(room, 5)
        await turns()
        gives_up.task.cancel()
        await turns()
        first.leave.set()
        await turns()
        assert patient.is_in
        # In the very moment in which his turn comes, too.
        unlucky = Guest(room, 10)
        await turns()
        patient.leave.set()
        await asyncio.sleep(0)
        unlucky.task.cancel()
        await turns()
        async with room.share(10):
            pass

    run(main())
