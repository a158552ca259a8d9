"""Tuning: settings searched by validation alone, the same budget for every method.

A study is one method on one split with everything fixed: what is searched and where, the objective,
the budget, the seeds. Its trials train and validate as runs do; no test part exists in one. Workers
on one machine or many take trials from a study in a database until its budget is met.
"""
