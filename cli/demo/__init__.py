"""`khata demo` and `khata proof`: the whole main job on real parts, and the proof that nothing was lost or doubled.

The producers keep a journal outside Khata's tables; the proof classifies each answered send by looking it up.
"""
