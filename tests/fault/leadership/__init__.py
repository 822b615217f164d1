"""Candidates for leadership over one store, under seeded faults, in virtual time.

Each candidate is the real `Leader` with a writer that writes on and on: what is known of a worker, which the store
compares with nothing but the term. The network between a candidate and the store delays calls, loses them, loses their
answers, and carries out calls whose caller gave up long before. Processes are stopped and continued (SIGSTOP), killed,
told to stop, and started again under another name; their clocks run at rates of their own.
"""
