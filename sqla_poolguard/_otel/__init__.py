"""tmp"""
from sqla_poolguard._observers import Observer
def observe(ledger): return Observer()
