"""``make bench``: mailhooks beside what administrators run today, and beside the floor.

* ``figures``: rounds of measurements to medians, spreads and verdicts; pure
* ``machine``: what else the machine does, told before and after each measurement
* ``load``: many requests in flight from one lean client, the same for all contenders
* ``host``: the lab, with an account for each contender
* ``classify``, ``delivery``, ``moves``, ``milters``, ``bulk``, ``drain``, ``memory``, ``ledgers``,
  ``startup``, ``curves``: what is measured, one module a question
"""
